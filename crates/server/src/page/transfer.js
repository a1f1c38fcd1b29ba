// Conversations as files, and back. What is read is a stranger's: each field is checked, and the error names it.

import { append, newConversation, newId, path, titleOf } from "./conversation.js";

const FORMAT = "dots.chat";
const VERSION = 1;
/** Largest file that is read, in bytes. */
export const MAX_IMPORT_BYTES = 32 << 20;
const MAX_CONVERSATIONS = 10_000;
const MAX_NODES = 20_000;
const MAX_TITLE = 500;
const ID = /^[0-9a-z]{1,64}$/;
const ENDS = ["stop", "length", "content_filter", "tool_calls", "aborted", "failed"];

/** What is wrong with a file. */
export class BadFile extends Error {}

/** All that there is of these conversations. */
export function toJson(conversations) {
  return `${JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1)}\n`;
}

/** The messages that are shown. `names` says what each role is called. */
export function toMarkdown(conversation, names) {
  const parts = [`# ${conversation.title || names.untitled}`];
  if (conversation.system.trim() !== "") parts.push(`## ${names.system}`, conversation.system.trim());
  for (const node of path(conversation)) {
    const by = node.role === "assistant" && node.model ? `${names.assistant} (${node.model})` : names[node.role];
    parts.push(`## ${by}`, node.content.trim());
  }
  return `${parts.join("\n\n")}\n`;
}

/** A name for a file, of what every system allows in one. */
export function fileName(title, extension) {
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  return `${name || "dots-chat"}.${extension}`;
}

/**
 * Reads what `toJson` wrote, or the `messages` of an OpenAI request: one such object, or an array of messages. Every
 * conversation and message gets an id of its own, so that nothing here is overwritten.
 */
export function fromJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new BadFile(`expected JSON: ${error.message}`);
  }
  if (Array.isArray(value)) return [ofMessages(value, "")];
  if (!isObject(value)) throw new BadFile(`expected an object, found ${kindOf(value)}`);
  if (value.format === undefined && Array.isArray(value.messages)) return [ofMessages(value.messages, "messages")];
  if (value.format !== FORMAT) throw new BadFile(`format: expected "${FORMAT}", found ${shown(value.format)}`);
  if (value.version !== VERSION) throw new BadFile(`version: expected ${VERSION}, found ${shown(value.version)}`);
  const list = array(value.conversations, "conversations", MAX_CONVERSATIONS);
  return list.map((item, i) => withNewIds(checked(item, `conversations[${i}]`)));
}

/** A conversation of only known fields with right types, or an error that names the field. */
export function checked(value, where) {
  if (!isObject(value)) throw new BadFile(`${where}: expected an object, found ${kindOf(value)}`);
  const now = Date.now();
  const known = new Set();
  const nodes = array(value.nodes, `${where}.nodes`, MAX_NODES).map((node, i) => {
    const checkedNode = checkNode(node, `${where}.nodes[${i}]`, known);
    known.add(checkedNode.id);
    return checkedNode;
  });
  const chosen = {};
  if (isObject(value.chosen)) {
    for (const node of nodes) {
      const key = node.parent ?? "";
      if (value.chosen[key] === node.id) chosen[key] = node.id;
    }
  }
  return {
    id: id(value.id, `${where}.id`),
    title: string(value.title ?? "", `${where}.title`).slice(0, MAX_TITLE),
    isNamed: value.isNamed === true,
    created: time(value.created) ?? now,
    updated: time(value.updated) ?? now,
    system: string(value.system ?? "", `${where}.system`),
    nodes,
    chosen,
  };
}

function checkNode(value, where, known) {
  if (!isObject(value)) throw new BadFile(`${where}: expected an object, found ${kindOf(value)}`);
  const node = { id: id(value.id, `${where}.id`), parent: null, role: role(value.role, `${where}.role`) };
  if (known.has(node.id)) throw new BadFile(`${where}.id: expected one that no other message has, found ${shown(node.id)}`);
  if (value.parent !== null && value.parent !== undefined) {
    node.parent = id(value.parent, `${where}.parent`);
    if (!known.has(node.parent)) throw new BadFile(`${where}.parent: expected the id of a message before, found ${shown(node.parent)}`);
  }
  node.content = string(value.content, `${where}.content`);
  node.created = time(value.created) ?? Date.now();
  if (typeof value.model === "string") node.model = value.model.slice(0, MAX_TITLE);
  if (ENDS.includes(value.ended)) node.ended = value.ended;
  if (typeof value.error === "string") node.error = value.error;
  if (isObject(value.stats)) {
    node.stats = {};
    for (const [name, number] of Object.entries(value.stats)) {
      if (["prompt", "completion", "first_ms", "rate"].includes(name) && Number.isFinite(number)) node.stats[name] = number;
    }
    if (value.stats.isEstimate === true) node.stats.isEstimate = true;
  }
  return node;
}

function ofMessages(messages, where) {
  const conversation = newConversation();
  let parent = null;
  array(messages, where || "messages", MAX_NODES).forEach((message, i) => {
    const at = `${where}[${i}]`;
    if (!isObject(message)) throw new BadFile(`${at}: expected an object, found ${kindOf(message)}`);
    const content = textOf(message.content, `${at}.content`);
    if (message.role === "system" || message.role === "developer") {
      conversation.system = [conversation.system, content].filter(Boolean).join("\n\n");
      return;
    }
    const node = append(conversation, parent, role(message.role, `${at}.role`), content);
    if (node.role === "assistant") node.ended = "stop";
    parent = node.id;
  });
  const first = conversation.nodes.find((node) => node.role === "user");
  conversation.title = titleOf(first?.content ?? "");
  return conversation;
}

/** A content is a text, or parts of which the texts count. */
function textOf(content, where) {
  if (!Array.isArray(content)) return string(content ?? "", where);
  return content.filter((part) => isObject(part) && typeof part.text === "string").map((part) => part.text).join("\n");
}

function withNewIds(conversation) {
  const ids = new Map(conversation.nodes.map((node) => [node.id, newId()]));
  const renamed = (old) => (old === null ? null : ids.get(old));
  const chosen = {};
  for (const node of conversation.nodes) {
    if (conversation.chosen[node.parent ?? ""] === node.id) chosen[renamed(node.parent) ?? ""] = renamed(node.id);
  }
  const nodes = conversation.nodes.map((node) => ({ ...node, id: renamed(node.id), parent: renamed(node.parent) }));
  return { ...conversation, id: newId(), nodes, chosen };
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function kindOf(value) {
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return "an array";
  return typeof value === "object" ? "an object" : `a ${typeof value}`;
}

function shown(value) {
  return value === undefined ? "nothing" : JSON.stringify(value).slice(0, 80);
}

function array(value, where, most) {
  if (!Array.isArray(value)) throw new BadFile(`${where}: expected an array, found ${kindOf(value)}`);
  if (value.length > most) throw new BadFile(`${where}: expected at most ${most} entries, found ${value.length}`);
  return value;
}

function string(value, where) {
  if (typeof value !== "string") throw new BadFile(`${where}: expected a text, found ${kindOf(value)}`);
  return value;
}

function id(value, where) {
  if (typeof value !== "string" || !ID.test(value)) throw new BadFile(`${where}: expected letters and digits, found ${shown(value)}`);
  return value;
}

function role(value, where) {
  if (value !== "user" && value !== "assistant") throw new BadFile(`${where}: expected "user" or "assistant", found ${shown(value)}`);
  return value;
}

function time(value) {
  return Number.isFinite(value) && value >= 0 ? value : null;
}
