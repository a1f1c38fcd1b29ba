// The list of conversations: found by their words, renamed, deleted.

import { icon, make } from "./dom.js";
import { label, say } from "./words.js";

const DAY_MS = 24 * 60 * 60 * 1000;
/** Conversations that are listed at once; a search finds the others. */
const MAX_LISTED = 300;

export class Sidebar {
  #list;
  #search;
  #store;
  #chats;
  #ask;
  #onOpen;
  #isRenaming = false;

  /** `ask(title, note)` asks whether to delete, `onOpen()` is told that a conversation was opened. */
  constructor({ list, search }, store, chats, ask, onOpen) {
    this.#list = list;
    this.#search = search;
    this.#store = store;
    this.#chats = chats;
    this.#ask = ask;
    this.#onOpen = onOpen;
    search.addEventListener("input", () => this.show());
  }

  /** Shows the list as it is now; while a name is being written, it waits for its end. */
  show() {
    if (this.#isRenaming) return;
    const words = this.#search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const all = this.#store.all();
    const found = words.length === 0 ? all : all.filter((conversation) => matches(conversation, words));
    const focused = this.#list.contains(document.activeElement) ? document.activeElement : null;
    const [item, id] = [focused?.closest("li"), focused?.closest("li")?.dataset.id];
    const place = item ? [...item.children].indexOf(focused) : -1;
    this.#list.replaceChildren();
    if (found.length === 0) {
      const empty = make("p", { className: "empty" });
      this.#list.append(label(empty, "text", all.length === 0 ? "no_conversations" : "nothing_found"));
    }
    let day = null;
    let group;
    for (const conversation of found.slice(0, MAX_LISTED)) {
      const its = dayOf(conversation.updated);
      if (its !== day) {
        day = its;
        group = make("ul");
        this.#list.append(label(make("h2"), "text", day), group);
      }
      group.append(this.#item(conversation));
    }
    if (focused) (this.#list.querySelector(`li[data-id="${id}"]`)?.children[place] ?? this.#search).focus();
  }

  #item(conversation) {
    const { id } = conversation;
    const item = make("li");
    item.dataset.id = id;
    const isCurrent = id === this.#chats.current.id;
    const title = make("span", { className: "title", dir: "auto" }, conversation.title || say("untitled"));
    const open = make("button", { type: "button", className: "open", onclick: () => this.#open(id) }, title);
    if (isCurrent) open.setAttribute("aria-current", "true");
    const marks = [
      [this.#chats.isRunning(id), "running"],
      [this.#store.isUnsaved(id), "not_saved"],
    ];
    for (const [isSo, key] of marks) if (isSo) open.append(label(make("span", { className: `mark ${key}` }), "text", key));
    const rename = this.#tool("edit", "rename", conversation, () => this.#rename(item, conversation));
    const remove = this.#tool("trash", "delete", conversation, () => this.#remove(conversation));
    item.append(open, rename, remove);
    return item;
  }

  #tool(name, key, conversation, onclick) {
    const button = make("button", { type: "button", className: "tool", title: say(key), onclick }, icon(name));
    button.setAttribute("aria-label", `${say(key)}: ${conversation.title || say("untitled")}`);
    return button;
  }

  #open(id) {
    this.#chats.open(id);
    this.#onOpen();
  }

  #rename(item, conversation) {
    const field = make("input", { type: "text", value: conversation.title, maxLength: 200, dir: "auto" });
    label(field, "aria-label", "rename");
    let isDone = false;
    const end = (isKept) => {
      if (isDone) return;
      isDone = true;
      this.#isRenaming = false;
      const title = field.value.trim();
      if (isKept && title !== "") this.#chats.rename(conversation.id, title);
      this.show();
      this.#list.querySelector(`li[data-id="${conversation.id}"] .open`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter");
    });
    field.addEventListener("blur", () => end(true));
    this.#isRenaming = true;
    item.replaceChildren(field);
    field.select();
  }

  async #remove(conversation) {
    const question = say("delete_question", { title: conversation.title || say("untitled") });
    if (await this.#ask(question, say("delete_note"))) {
      this.#chats.remove(conversation.id);
      this.#search.focus();
    }
  }
}

function matches(conversation, words) {
  const texts = [conversation.title, ...conversation.nodes.map((node) => node.content)].map((text) => text.toLowerCase());
  return words.every((word) => texts.some((text) => text.includes(word)));
}

function dayOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  return time >= midnight ? "today" : time >= midnight - DAY_MS ? "yesterday" : "earlier";
}
