// Making DOM nodes.  Text becomes text nodes, never markup: nothing in this page parses HTML.

// h("button", { class: "x", onclick: f, disabled: true, "aria-label": "Send" }, "Send", child, [more, children])
export function h(tag, properties, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function s(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(name, value === true ? "" : value);
  }
  append(node, children);
  return node;
}

export function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

export function replace(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

// A label around a control, with the text first.
export function field(label, control, hint) {
  return h("label", { class: "field", title: hint }, h("span", null, label), control);
}

export function say(text) {
  document.getElementById("status").textContent = text;
}

// An error or a message that stays until it is closed or ten seconds are over.
export function notice(text) {
  const shown = document.getElementById("notices");
  if ([...shown.children].some((n) => n.firstChild.textContent === text)) return; // it is being said
  const close = () => box.remove();
  const box = h("div", { class: "notice" }, h("span", null, text),
                h("button", { type: "button", onclick: close, "aria-label": "Close" }, "×"));
  shown.append(box);
  setTimeout(close, 10000);
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return (value / 1e9).toFixed(2) + " G";
  if (size >= 1e6) return (value / 1e6).toFixed(2) + " M";
  if (size >= 1e4) return (value / 1e3).toFixed(1) + " k";
  if (size >= 100) return value.toFixed(0);
  if (size === 0) return "0";
  return size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// A small button that copies, and says that it did.
export function copyButton(text, attributes) {
  const button = h("button", { type: "button", ...attributes, onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      say("Copied");
    } catch {
      notice("The browser does not let this page copy.");
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  } }, "Copy");
  return button;
}

// One dialog at a time; resolves with what `close(value)` was given, or undefined.
export function dialog(title, build) {
  return new Promise((resolve) => {
    let result;
    const box = h("dialog", { "aria-label": title });
    const close = (value) => { result = value; box.close(); };
    append(box, [h("header", null, h("h2", null, title),
                   h("button", { type: "button", onclick: () => close(), "aria-label": "Close" }, "×")),
                 build(close)]);
    box.addEventListener("close", () => { box.remove(); resolve(result); });
    document.body.append(box);
    box.showModal();
  });
}
