// A conversation: a tree of messages, so that an edited message and a second answer leave the first where it was.
//
//   {id, title, isNamed, created, updated, system, nodes: [node], chosen: {parent id or "": child id}}
//   node: {id, parent, role: "user" | "assistant", content, created, model?, ended?, error?, stats?}
//
// A node stands behind its parent in `nodes`. `ended` is OpenAI's finish reason, or "aborted" (the user stopped it), or
// "failed"; an answer without it still runs, or was cut off with its page.

/** Longest title, in characters. */
const MAX_TITLE = 60;

/** An id that no other tab has made. `crypto.randomUUID` is missing over plain HTTP. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(9));
  return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

export function newConversation(system = "") {
  const now = Date.now();
  return { id: newId(), title: "", isNamed: false, created: now, updated: now, system, nodes: [], chosen: {} };
}

/** Adds a message behind `parent`, null for the first, and shows it. */
export function append(conversation, parent, role, content) {
  const node = { id: newId(), parent, role, content, created: Date.now() };
  conversation.nodes.push(node);
  conversation.chosen[parent ?? ""] = node.id;
  conversation.updated = node.created;
  if (!conversation.isNamed && role === "user" && parent === null) conversation.title = titleOf(content);
  return node;
}

/** The messages that are shown, from the first on. */
export function path(conversation) {
  const children = childrenOf(conversation);
  const nodes = [];
  let siblings = children.get("");
  while (siblings) {
    const chosen = conversation.chosen[nodes.at(-1)?.id ?? ""];
    nodes.push(siblings.find((node) => node.id === chosen) ?? siblings.at(-1));
    siblings = children.get(nodes.at(-1).id);
  }
  return nodes;
}

/** A message and those that stand in the same place, oldest first. */
export function versions(conversation, node) {
  return conversation.nodes.filter((other) => other.parent === node.parent);
}

/** Shows this version. */
export function choose(conversation, node) {
  conversation.chosen[node.parent ?? ""] = node.id;
}

/** What the model is to answer: the system prompt and all messages up to `last`. */
export function requestMessages(conversation, last) {
  const byId = new Map(conversation.nodes.map((node) => [node.id, node]));
  const messages = [];
  for (let node = last; node; node = byId.get(node.parent)) {
    // An answer that failed before its first word is none.
    if (node.role === "user" || node.content !== "") messages.push({ role: node.role, content: node.content });
  }
  if (conversation.system.trim() !== "") messages.push({ role: "system", content: conversation.system });
  return messages.reverse();
}

/** Takes over what another tab has of the same conversation; nothing that either has is lost. */
export function merge(conversation, other) {
  const byId = new Map(conversation.nodes.map((node) => [node.id, node]));
  for (const theirs of other.nodes) {
    const ours = byId.get(theirs.id);
    if (!ours) conversation.nodes.push(theirs);
    else if (!ours.ended && (theirs.ended || theirs.content.length > ours.content.length)) Object.assign(ours, theirs);
  }
  conversation.chosen = { ...other.chosen, ...conversation.chosen };
  if (other.updated > conversation.updated) {
    const { title, isNamed, system, updated } = other;
    Object.assign(conversation, { title, isNamed, system, updated });
  }
}

/** A text's first line, cut at a word. */
export function titleOf(text) {
  const line = text.trim().split("\n", 1)[0].replace(/^[#>*\-\s]+/, "").replace(/\s+/g, " ").slice(0, 500);
  const characters = Array.from(line);
  if (characters.length <= MAX_TITLE) return line;
  const cut = characters.slice(0, MAX_TITLE).join("");
  const space = cut.lastIndexOf(" ");
  return `${space > MAX_TITLE / 2 ? cut.slice(0, space) : cut}…`;
}

function childrenOf(conversation) {
  const children = new Map();
  for (const node of conversation.nodes) {
    const key = node.parent ?? "";
    if (children.has(key)) children.get(key).push(node);
    else children.set(key, [node]);
  }
  return children;
}
