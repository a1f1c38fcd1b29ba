// What the browser keeps: conversations, one entry each, and settings. The storage is small and may be full, closed, or
// written by another tab. A conversation that does not fit stays in memory and is said to be unsaved; none is ever dropped
// to make room.

import { merge } from "./conversation.js";
import { checked } from "./transfer.js";

const CHAT = "dots.chat.";
/** What the conversations take together at most, in UTF-16 units. Browsers give an origin about 5 million. */
const MAX_UNITS = 4_500_000;

export class Store {
  #storage;
  #conversations = new Map();
  /** Units that each saved conversation takes, and all together. */
  #units = new Map();
  #taken = 0;
  #unsaved = new Set();

  /** Over `localStorage`, or null where the browser has none for this page. */
  constructor(storage) {
    this.#storage = storage;
    for (const key of this.#keys()) this.#read(key);
  }

  get isKept() {
    return this.#storage !== null;
  }

  /** Latest first. */
  all() {
    return [...this.#conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.#conversations.get(id);
  }

  isUnsaved(id) {
    return this.#unsaved.has(id);
  }

  get hasUnsaved() {
    return this.#unsaved.size > 0;
  }

  /** Keeps the conversation; where it does not fit, in memory only. */
  save(conversation) {
    this.#conversations.set(conversation.id, conversation);
    if (this.#write(conversation)) this.#unsaved.delete(conversation.id);
    else this.#unsaved.add(conversation.id);
  }

  /** Forgets it, and tries again to save what did not fit. */
  remove(id) {
    this.#conversations.delete(id);
    this.#count(id, 0);
    this.#unsaved.delete(id);
    this.#attempt((storage) => storage.removeItem(CHAT + id));
    for (const other of [...this.#unsaved]) this.save(this.#conversations.get(other));
  }

  /**
   * Takes over what another tab wrote. Returns the id of the conversation that changed, or null. `isBusy` says of an id
   * whether it is being written here: then its deletion elsewhere is not followed.
   */
  onChange(event, isBusy) {
    if (!event.key?.startsWith(CHAT)) return null;
    const id = event.key.slice(CHAT.length);
    if (event.newValue !== null) this.#read(event.key);
    else if (!isBusy(id)) {
      this.#conversations.delete(id);
      this.#count(id, 0);
    }
    return id;
  }

  /** A setting, or undefined. */
  setting(name) {
    const text = this.#attempt((storage) => storage.getItem(`dots.${name}`));
    try {
      return text ? JSON.parse(text) : undefined;
    } catch {
      return undefined;
    }
  }

  /** Keeps a setting; undefined forgets it. */
  set(name, value) {
    if (value === undefined) this.#attempt((storage) => storage.removeItem(`dots.${name}`));
    else this.#attempt((storage) => storage.setItem(`dots.${name}`, JSON.stringify(value)));
  }

  #keys() {
    const keys = this.#attempt((storage) => Array.from({ length: storage.length }, (_, i) => storage.key(i)));
    return (keys ?? []).filter((key) => key.startsWith(CHAT));
  }

  #read(key) {
    const text = this.#attempt((storage) => storage.getItem(key));
    if (!text) return;
    let read;
    try {
      read = checked(JSON.parse(text), key);
    } catch {
      // Something else wrote here. It stays where it is, and is not shown.
      return;
    }
    if (key !== CHAT + read.id) return;
    this.#count(read.id, text.length);
    const ours = this.#conversations.get(read.id);
    if (ours) merge(ours, read);
    else this.#conversations.set(read.id, read);
  }

  #write(conversation) {
    const text = JSON.stringify(conversation);
    if (this.#taken - (this.#units.get(conversation.id) ?? 0) + text.length > MAX_UNITS) return false;
    const isWritten = this.#attempt((storage) => {
      storage.setItem(CHAT + conversation.id, text);
      return true;
    });
    if (isWritten) this.#count(conversation.id, text.length);
    return isWritten === true;
  }

  #count(id, units) {
    this.#taken += units - (this.#units.get(id) ?? 0);
    this.#units.set(id, units);
  }

  /** What `work` returns, or undefined where the storage refuses: it is full, closed, or none. */
  #attempt(work) {
    try {
      return this.#storage ? work(this.#storage) : undefined;
    } catch {
      return undefined;
    }
  }
}

/** `localStorage` or `sessionStorage`, or null where even the look at it is forbidden. */
export function storageOf(name) {
  try {
    return window[name] ?? null;
  } catch {
    return null;
  }
}
