// The Chat view: conversations at the left, messages, how answers are made at the right.
import { h, replace, say, notice, download, dialog, number } from "./dom.js";
import { get, post, call, refreshModels, loadedModels } from "./api.js";
import { isLost } from "./connection.js";
import * as tree from "./tree.js";
import { generate, metaOf, checkCache } from "./answer.js";
import { assistantMessage, userMessage, liveMessage } from "./message.js";
import { settingsPanel, lastSettings, withDefaults } from "./settings.js";
import { benchDialog } from "./bench.js";

let conversation = null; // null: a new one that is not in the store yet
let settings = lastSettings();
let running = null; // { abort } of the answers being made
let editing = null; // id of the message being edited
const parts = {};

// ---- the store ----

async function create(title) {
  conversation = await post("/api/conversations", { title, settings });
  history.replaceState(null, "", "#chat/" + conversation.id);
}

async function addMessage(to, parent, role, content, more) {
  const message = await post(`/api/conversations/${to.id}/messages`, { parent, role, content, ...more });
  to.messages.push(message);
  to.head = message.id;
  return message;
}

async function setHead(message) {
  conversation.head = message.id;
  await call("PATCH", `/api/conversations/${conversation.id}`, { head: message.id });
}

const MANY = 8; // conversations, from which on they can be searched

async function listConversations() {
  parts.all = (await get("/api/conversations")).conversations;
  parts.search.hidden = parts.all.length < MANY;
  drawList();
}

function day(seconds) {
  const days = Math.floor((new Date().setHours(24, 0, 0, 0) / 1000 - seconds) / 86400);
  return days < 1 ? "Today" : days < 2 ? "Yesterday" : days < 7 ? "This week" : "Earlier";
}

function drawList() {
  const wanted = parts.search.hidden ? "" : parts.search.value.trim().toLowerCase();
  const list = parts.all.filter((c) => c.title.toLowerCase().includes(wanted)), name = (c) => c.title || "Untitled";
  let last = null;
  replace(parts.list, list.map((c) => {
    const heading = day(c.updated) === last ? null : h("li", { class: "day", role: "presentation" }, last = day(c.updated));
    return [heading, h("li", null,
      h("a", { href: "#chat/" + c.id, title: name(c), "aria-current": c.id === conversation?.id ? "true" : null }, name(c)),
      h("button", { type: "button", class: "small", title: "Rename", "aria-label": `Rename ${name(c)}`, onclick: () => rename(c) }, "✎"),
      h("button", { type: "button", class: "small", title: "Delete", "aria-label": `Delete ${name(c)}`, onclick: () => remove(c) }, "×"))];
  }), list.length ? null : h("li", { class: "day" }, parts.all.length ? "None has that title." : "Conversations are kept here."));
}

async function rename(c) {
  const title = await dialog("Rename conversation", (close) => {
    const input = h("input", { value: c.title, maxlength: 60, required: true, "aria-label": "Title" });
    return h("form", { onsubmit: (e) => { e.preventDefault(); close(input.value.trim()); } }, input, h("button", { class: "primary" }, "Rename"));
  });
  if (!title || title === c.title) return;
  await call("PATCH", `/api/conversations/${c.id}`, { title });
  if (conversation?.id === c.id) conversation.title = title;
  await listConversations();
}

async function remove(c) {
  const sure = await dialog("Delete conversation", (close) => h("div", null, h("p", null, `“${c.title || "Untitled"}” is gone then.`),
    h("button", { type: "button", class: "primary", onclick: () => close(true) }, "Delete")));
  if (!sure) return;
  await call("DELETE", `/api/conversations/${c.id}`);
  if (conversation?.id === c.id) startNew();
  await listConversations();
}

// ---- making answers ----

function models() {
  const first = settings.model || loadedModels()[0]?.id;
  return settings.second && settings.second !== first ? [first, settings.second] : [first];
}

// An answer that cannot be stored stays on the page, with its reason.
async function keep(to, parent, content, more) {
  try {
    await addMessage(to, parent, "assistant", content, more);
  } catch (error) {
    if (error.status) notice(`The answer could not be stored: ${error.message}`); // else the bar says it
    const id = 1 + to.messages.reduce((most, m) => Math.max(most, m.id), 0);
    to.messages.push({ id, parent, role: "assistant", content, unsaved: true, ...more });
    to.head = id;
  }
}

async function storeAgain(message) {
  const { parent, content, model, meta } = message;
  conversation.messages = conversation.messages.filter((m) => m !== message);
  await keep(conversation, parent, content, { model, meta });
  draw();
}

// What a screen reader says of an answer when it is there: all of it.
function spoken(answer, named) {
  const how = answer.finish === "stopped" ? "Stopped" : answer.error ? "Failed" : "Answered";
  return `${how}${named ? " by " + answer.model : ""}, ${answer.usage?.completion_tokens ?? answer.tokens} tokens: ${answer.content}`;
}

// Answers to a message of the user, by one model or two at once.
async function answer(question, names) {
  const abort = new AbortController(), into = conversation; // another one may be shown before the answer ends
  running = { abort };
  const messages = tree.prompt(conversation, question, settings.system);
  const used = { ...settings };
  draw();
  const live = names.map(liveMessage);
  parts.messages.append(h("div", { class: names.length > 1 ? "beside" : "alone" }, live));
  scrollDown(true);
  say("Answering");
  const group = names.length > 1 ? crypto.randomUUID?.() ?? String(Math.random()) : undefined;
  try {
    const answers = await Promise.all(names.map((model, i) => generate({
      model, messages, settings: used, signal: abort.signal, onchange: live[i].show })));
    for (const a of answers.reverse()) { // the first model's is stored last, and becomes the head
      if (a.error && !isLost()) notice(`${a.model}: ${a.error}`);
      if (!a.content && !a.reasoning) continue;
      await keep(into, question.id, a.content, { model: a.model, meta: { ...metaOf(a, used), group } });
    }
    say(answers.reverse().map((a) => spoken(a, names.length > 1)).join(" "));
  } catch (error) {
    notice(error.message);
  }
  if (running?.abort === abort) running = null;
  parts.panel.refresh(); // a model may have been loaded for it
  if (into === conversation) {
    draw();
    scrollDown(true);
  }
  await listConversations().catch(() => {});
}

async function send() {
  const text = parts.input.value.trim();
  if (!text || running) return;
  if (!models()[0]) return notice("No model is loaded: choose one in the settings.");
  try {
    if (!conversation) await create(text.slice(0, 60));
    const question = await addMessage(conversation, conversation.head, "user", text, {});
    parts.input.value = "";
    grow();
    await answer(question, models());
  } catch (error) {
    notice(error.message);
  }
}

function stop() {
  running?.abort.abort();
}

// Leaving a conversation stops what is being written in it; what came so far is kept there.
function leave() {
  stop();
  running = null;
  editing = null;
}

// ---- what messages offer ----

const act = {
  go: async (message) => { await setHead(tree.tip(conversation, message)); draw(); },
  choose: async (message) => { await setHead(message); draw(); parts.input.focus(); },
  regenerate: async (message) => {
    if (!running) await answer(tree.find(conversation.messages, message.parent), models());
  },
  edit: (message) => { editing = message.id; draw(); parts.messages.querySelector("textarea")?.focus(); },
  store: storeAgain,
  experts: (message) => { location.hash = "#experts/" + encodeURIComponent(message.meta.trace_id); },
  check: async (message, button) => {
    button.disabled = true;
    button.textContent = "Checking …";
    try {
      const question = tree.find(conversation.messages, message.parent);
      message.meta.check = await checkCache({ model: message.model, meta: message.meta, content: message.content,
                                              messages: tree.prompt(conversation, question, settings.system) });
      say(message.meta.check.equal ? "The answers are equal" : "The answers differ");
    } catch (error) {
      notice(error.message);
    }
    draw();
  },
};

function editor(message) {
  const input = h("textarea", { rows: 4, value: message.content, "aria-label": "Changed message" });
  const done = () => { editing = null; draw(); };
  const save = async () => {
    editing = null;
    const text = input.value.trim();
    if (!text || text === message.content) return draw();
    const question = await addMessage(conversation, message.parent, "user", text, {});
    await answer(question, models());
  };
  input.addEventListener("keydown", (e) => {
    if (e.key === "Escape") { e.stopPropagation(); done(); }
    if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) save();
  });
  return h("article", { class: "message user" }, input, h("footer", null,
    h("button", { type: "button", class: "primary small", onclick: save }, "Send as a branch"),
    h("button", { type: "button", class: "small", onclick: done }, "Leave it")));
}

// ---- drawing ----

// Answers that were made side by side stand side by side while they are the last ones.
function lastGroup(shown) {
  const last = shown.at(-1);
  if (last?.role !== "assistant" || !last.meta?.group) return [];
  return tree.siblings(conversation, last).filter((m) => m.meta?.group === last.meta.group).reverse();
}

function draw() {
  const shown = conversation ? tree.path(conversation) : [];
  const group = running ? [] : lastGroup(shown), single = group.length > 1 ? shown.slice(0, -1) : shown;
  replace(parts.messages, shown.length || running ? null : emptyText(),
    single.map((m) => m.id === editing ? editor(m) : m.role === "user" ? userMessage(conversation, m, act)
                                                                       : assistantMessage(conversation, m, act)),
    group.length > 1 ? h("div", { class: "beside" }, group.map((m) => assistantMessage(conversation, m, { ...act, go: null }, m.id === conversation.head))) : null);
  parts.send.hidden = Boolean(running);
  parts.stop.hidden = !running;
  parts.exports.hidden = !shown.length;
}

function emptyText() {
  const model = loadedModels().find((m) => m.id === settings.model) ?? loadedModels()[0];
  if (!model) return h("p", { class: "empty" }, "No model is loaded. Choose one at the right.");
  const experts = model.n_expert ? `, ${model.n_expert} experts in a layer, ${model.top_k} for a token` : "";
  return h("p", { class: "empty" }, h("strong", null, model.id), h("br"),
           `${number(model.n_params)} parameters, ${number(model.n_params_active)} active${experts}`,
           model.chat_format === "none" ? [h("br"), "It knows no turns: it goes on with what you write."] : null,
           h("span", { class: "starters" }, starters[model.chat_format === "none" ? "text" : "chat"].map((text) =>
             h("button", { type: "button", onclick: () => { parts.input.value = text; grow(); parts.input.focus(); } }, text))));
}

const starters = {
  text: ["Once upon a time", "One day, a little girl", "The old man said"],
  chat: ["Tell me a story about a fox and the moon.", "Explain what a mixture of experts is.", "What can you do?"],
};

function scrollDown(force) {
  const box = parts.scroll, near = box.scrollHeight - box.scrollTop - box.clientHeight < 160;
  if (near || force) box.scrollTop = box.scrollHeight;
}

function grow() {
  parts.input.style.height = "auto";
  parts.input.style.height = Math.min(parts.input.scrollHeight + 2, 240) + "px";
}

// ---- the view ----

const isWide = () => matchMedia("(min-width: 54rem)").matches;

function startNew() {
  leave();
  conversation = null;
  settings = lastSettings();
  if (location.hash.startsWith("#chat/")) history.replaceState(null, "", "#chat");
  drawSettings();
  drawList();
  draw();
  parts.input.focus();
}

async function open(id) {
  leave();
  conversation = await get("/api/conversations/" + encodeURIComponent(id));
  settings = withDefaults(conversation.settings);
  if (!isWide()) parts.left.open = parts.settings.open = false;
  drawSettings();
  drawList();
  draw();
  scrollDown(true);
}

function drawSettings() {
  parts.panel = settingsPanel(settings, () => {
    if (conversation) call("PATCH", `/api/conversations/${conversation.id}`, { settings }).catch((e) => notice(e.message));
    draw();
  });
  replace(parts.settings, h("summary", null, "Settings"), parts.panel,
          h("button", { type: "button", onclick: () => benchDialog(settings.model) }, "Measure the KV cache …"));
}

function exportAs(kind) {
  const name = (conversation.title || "conversation").replace(/[^\w-]+/g, "-").slice(0, 40);
  if (kind === "json") download(name + ".json", "application/json", JSON.stringify(conversation, null, 2));
  else download(name + ".md", "text/markdown", tree.toMarkdown(conversation, settings.system));
}

function build(main) {
  parts.list = h("ul");
  parts.all = [];
  parts.search = h("input", { type: "search", placeholder: "Search titles", "aria-label": "Search conversations", hidden: true, oninput: drawList });
  parts.messages = h("div", { class: "messages", "aria-label": "Messages", role: "log", "aria-live": "off" });
  parts.scroll = h("div", { class: "scrollbox", tabindex: -1 }, parts.messages);
  parts.scroll.addEventListener("grow", () => scrollDown(false));
  parts.input = h("textarea", { rows: 1, placeholder: "Write a message", "aria-label": "Message", oninput: grow });
  parts.send = h("button", { class: "primary" }, "Send");
  parts.stop = h("button", { type: "button", class: "stop", hidden: true, onclick: stop }, "Stop");
  parts.exports = h("span", { class: "exports" },
    h("button", { type: "button", class: "small", onclick: () => exportAs("md") }, "Save as Markdown"),
    h("button", { type: "button", class: "small", onclick: () => exportAs("json") }, "Save as JSON"));
  const form = h("form", { class: "composer", onsubmit: (e) => { e.preventDefault(); send(); } }, parts.input, parts.send, parts.stop);
  parts.input.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
  });
  parts.settings = h("details", { class: "side right", open: matchMedia("(min-width: 70rem)").matches });
  parts.left = h("details", { class: "side left", open: isWide() }, h("summary", null, "Conversations"),
    h("button", { type: "button", class: "new", onclick: startNew }, "New conversation"), parts.search, h("nav", { "aria-label": "Conversations" }, parts.list));
  replace(main, h("h1", { class: "hidden" }, "Chat"), h("div", { class: "chat" }, parts.left,
    h("section", { class: "middle", "aria-label": "Conversation" }, parts.scroll, form,
      h("p", { class: "keys" }, parts.exports, h("span", { class: "hint" }, h("kbd", null, "Enter"), "sends, ", h("kbd", null, "Shift+Enter"), "begins a line, ", h("kbd", null, "Esc"), "stops"))),
    parts.settings));
}

const lastOf = (css) => [...parts.messages.querySelectorAll(css)].at(-1);
const pressLast = (css, label) => [...(lastOf(css)?.querySelectorAll("button") ?? [])].find((b) => b.textContent === label)?.click();

addEventListener("reconnected", () => {
  if (parts.panel?.isConnected) refreshModels().then(() => { parts.panel.refresh(); return listConversations(); }).catch(() => {});
});

export const chat = {
  keys: [["Enter", "send"], ["Shift+Enter", "begin a line"], ["Esc", "stop the answer"], ["/", "to the message"], ["n", "new conversation"],
         ["r", "answer again"], ["e", "edit the last message"], ["x", "the experts of the last answer"]],
  async show(main, argument) {
    build(main);
    drawSettings();
    draw();
    await refreshModels();
    parts.panel.refresh();
    await listConversations();
    if (argument) await open(argument);
    else draw();
    if (isWide()) parts.input.focus();
  },
  async change(argument) {
    if (argument) await open(argument);
    await listConversations();
  },
  hide() { leave(); },
  talkTo(model) {
    leave();
    conversation = null;
    settings = { ...lastSettings(), model, second: "" };
    if (parts.panel?.isConnected) { drawSettings(); draw(); }
  },
  key(event, typing) {
    if (event.key === "Escape" && running) return stop();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = { "/": () => parts.input.focus(), n: startNew, r: () => pressLast(".message.assistant", "Again"),
                   e: () => pressLast(".message.user", "Edit"), x: () => pressLast(".message.assistant", "Experts") }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  },
};
