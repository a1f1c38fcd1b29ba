// Conversations and the answers under way in them; what is shown and what is heard listens here.

import { append, choose, newConversation, path, requestMessages, versions } from "./conversation.js";
import { Run } from "./run.js";

/** Answers at once. A browser opens six connections to a server, and the page needs some for itself. */
const MAX_RUNS = 4;

export class Chats {
  #store;
  #request;
  #on;
  /** By conversation's id: `{run, node}`. */
  #runs = new Map();
  current;

  /**
   * `request()` gives `{key, body}`: the model and the sampling settings. `on` has `changed(isStill)`, `grow(node, text)` and
   * `ended(node, error)` for the conversation that is shown, `listed()` for all, and `busy()`. `isStill` says that its reader
   * stays where they are.
   */
  constructor(store, request, on) {
    this.#store = store;
    this.#request = request;
    this.#on = on;
    this.current = newConversation(store.setting("system") ?? "");
  }

  /** The answer under way in the conversation that is shown. */
  get run() {
    return this.#runs.get(this.current.id)?.run ?? null;
  }

  isRunning(id) {
    return this.#runs.has(id);
  }

  /** Whether this message is being written. */
  isGrowing(node) {
    return [...this.#runs.values()].some((running) => running.node === node);
  }

  create() {
    this.#show(newConversation(this.#store.setting("system") ?? ""));
  }

  open(id) {
    const conversation = this.#store.get(id);
    if (conversation && conversation !== this.current) this.#show(conversation);
  }

  /** Sends a message behind those that are shown; false where it could not be sent. */
  send(text) {
    return this.#ask(() => append(this.current, path(this.current).at(-1)?.id ?? null, "user", text));
  }

  /** Sends another version of a message. */
  edit(node, text) {
    return this.#ask(() => append(this.current, node.parent, "user", text));
  }

  /** Answers the same message once more. */
  again(answer) {
    const question = this.current.nodes.find((node) => node.id === answer.parent);
    return question ? this.#ask(() => question) : false;
  }

  /** Answers the last message that is shown, which has no answer. */
  answer(question) {
    return this.#ask(() => question);
  }

  stop() {
    this.run?.stop();
  }

  /** Shows another version of this message: by -1 the one before, by 1 the one behind. */
  turn(node, by) {
    const all = versions(this.current, node);
    const other = all[all.indexOf(node) + by];
    if (!other) return;
    choose(this.current, other);
    this.#store.save(this.current);
    this.#on.changed(true);
  }

  rename(id, title) {
    const conversation = this.#store.get(id);
    if (!conversation) return;
    Object.assign(conversation, { title, isNamed: true });
    this.#store.save(conversation);
    this.#on.listed();
  }

  remove(id) {
    this.#runs.get(id)?.run.stop();
    this.#runs.delete(id);
    this.#store.remove(id);
    if (this.current.id === id) this.create();
    else this.#on.listed();
  }

  /** The system prompt of the conversation that is shown, and of those that begin later. */
  setSystem(text) {
    this.#store.set("system", text === "" ? undefined : text);
    this.current.system = text;
    if (this.current.nodes.length > 0) this.#store.save(this.current);
  }

  /** Follows what another tab wrote. */
  follow(event) {
    const id = this.#store.onChange(event, (changed) => this.#runs.has(changed));
    if (id === null) return;
    if (id === this.current.id && !this.#store.get(id) && !this.#runs.has(id)) this.create();
    else if (id === this.current.id) this.#on.changed(true);
    this.#on.listed();
  }

  /** Saves what is being written, when the page may be about to go. */
  saveRunning() {
    for (const id of this.#runs.keys()) {
      const conversation = this.#store.get(id);
      if (conversation) this.#store.save(conversation);
    }
  }

  #show(conversation) {
    this.current = conversation;
    this.#on.changed();
    this.#on.listed();
  }

  #ask(question) {
    const conversation = this.current;
    if (this.#runs.has(conversation.id)) return false;
    if (this.#runs.size >= MAX_RUNS) {
      this.#on.busy();
      return false;
    }
    const { key, body } = this.#request();
    const asked = question();
    const messages = requestMessages(conversation, asked);
    const node = append(conversation, asked.id, "assistant", "");
    node.model = body.model;
    const isShown = () => this.current === conversation;
    const save = () => this.#runs.get(conversation.id)?.node === node && this.#store.save(conversation);
    const run = new Run(node, { ...body, messages }, key, {
      grow: (text) => isShown() && this.#on.grow(node, text),
      save,
      end: (error) => {
        save();
        // A conversation that was deleted meanwhile does not come back.
        if (this.#runs.get(conversation.id)?.node === node) this.#runs.delete(conversation.id);
        if (isShown()) this.#on.ended(node, error);
        this.#on.listed();
      },
    });
    this.#runs.set(conversation.id, { run, node });
    this.#store.save(conversation);
    this.#on.changed();
    this.#on.listed();
    return true;
  }
}
