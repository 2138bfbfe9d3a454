// Talking to the server: JSON requests, event streams, the API key.
import { h, dialog } from "./dom.js";
import { lost } from "./connection.js";

export class ApiError extends Error {
  constructor(status, message, param) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

let key = sessionStorage.getItem("key");
let asking = null; // one question for the key, however many requests wait for it

function askKey() {
  asking ??= dialog("API key", (close) => h("form", {
    onsubmit: (event) => { event.preventDefault(); close(event.target.key.value.trim()); },
  }, h("p", null, "This server answers those who have a key."),
     h("label", { class: "field" }, h("span", null, "Key"),
       h("input", { name: "key", type: "password", autocomplete: "off", required: true })),
     h("button", { class: "primary" }, "Use it"))).then((value) => {
    asking = null;
    if (value) sessionStorage.setItem("key", value);
    return value;
  });
  return asking;
}

// A request without an answer is a failure with status 0.
async function request(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    lost();
    throw new ApiError(0, "The server does not answer.");
  }
}

async function send(method, path, body, signal) {
  for (;;) {
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (key) headers.Authorization = "Bearer " + key;
    const used = key;
    const response = await request(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
    if (response.status !== 401) return response;
    if (key === used) { // nobody gave another one meanwhile
      const given = await askKey();
      if (!given) throw new ApiError(401, "This server needs an API key.");
      key = given;
    }
  }
}

async function failure(response) {
  let message = response.status + " " + response.statusText, param;
  try {
    const error = (await response.json()).error;
    message = error.message;
    param = error.param;
  } catch { /* no JSON: the status has to do */ }
  return new ApiError(response.status, message, param);
}

export async function call(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  if (!response.ok) throw await failure(response);
  return response.status === 204 ? null : response.json();
}

export const get = (path, signal) => call("GET", path, undefined, signal);
export const post = (path, body, signal) => call("POST", path, body, signal);

// The data of each event of a stream, parsed; ends at [DONE] or with the stream.
export async function* events(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  if (!response.ok) throw await failure(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "", data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (!signal?.aborted) lost();
        throw signal?.aborted ? error : new ApiError(0, "The connection to the server was lost.");
      });
      if (done) return;
      const lines = (held + value).split("\n");
      held = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        if (line !== "" || !data.length) continue;
        const text = data.join("\n");
        data = [];
        if (text === "[DONE]") return;
        const event = JSON.parse(text);
        if (event.error) throw new ApiError(500, event.error.message);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// ---- models: looked up together, shared by the views ----

let models = [];

export async function refreshModels() {
  models = (await get("/api/models")).models;
  return models;
}

export function loadedModels() {
  return models.filter((m) => m.state === "loaded");
}

export function findModel(id) {
  return models.find((m) => m.id === id);
}

// Load it if need be; the model's object.
export async function ensureLoaded(id) {
  if (findModel(id)?.state === "loaded") return findModel(id);
  for (;;) {
    try {
      await post("/api/models/load", { id });
      break;
    } catch (error) { // somebody else is loading it already
      if (error.status !== 409) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
  await refreshModels();
  return findModel(id);
}

// A <select> of models.  `none`: the text of a first choice that means no model.
export function modelSelect(chosen, onchange, label, none) {
  const select = h("select", { onchange: () => onchange(select.value), "aria-label": label });
  const show = () => {
    const now = select.value || chosen;
    select.replaceChildren();
    if (none) select.append(h("option", { value: "" }, none));
    for (const m of models) {
      const state = m.state === "loaded" ? "" : m.state === "available" ? " (not loaded)" : ` (${m.state})`;
      const note = m.parent ? ` · of ${m.parent}` : m.best ? " · best" : m.latest ? " · latest" : "";
      select.append(h("option", { value: m.id, disabled: m.state === "failed" }, m.id + note + state));
    }
    select.value = [...select.options].some((o) => o.value === now) ? now : select.options[0]?.value ?? "";
  };
  select.refresh = show;
  show();
  return select;
}
