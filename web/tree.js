// A conversation is a tree of messages; what is shown is the path from its root to the head.

export function find(messages, id) {
  return messages.find((m) => m.id === id);
}

export function path(conversation) {
  const out = [];
  for (let m = find(conversation.messages, conversation.head); m; m = find(conversation.messages, m.parent)) out.unshift(m);
  return out;
}

// The message and its alternatives, oldest first.
export function siblings(conversation, message) {
  return conversation.messages.filter((m) => m.parent === message.parent && m.role === message.role).sort((a, b) => a.id - b.id);
}

// Where a branch was left off: down from a message, the newest child each time.
export function tip(conversation, message) {
  for (;;) {
    const children = conversation.messages.filter((m) => m.parent === message.id);
    if (!children.length) return message;
    message = children.reduce((a, b) => (b.id > a.id ? b : a));
  }
}

// What a model gets to see: the system prompt and the path down to a message.
export function prompt(conversation, message, system) {
  const out = system ? [{ role: "system", content: system }] : [];
  const upward = [];
  for (let m = message; m; m = find(conversation.messages, m.parent)) upward.unshift({ role: m.role, content: m.content });
  return out.concat(upward);
}

export function toMarkdown(conversation, system) {
  const lines = [`# ${conversation.title}`, ""];
  if (system) lines.push("**System**", "", system, "");
  for (const m of path(conversation)) {
    lines.push(m.role === "user" ? "**You**" : `**${m.model ?? "Assistant"}**`, "", m.content, "");
  }
  return lines.join("\n");
}
