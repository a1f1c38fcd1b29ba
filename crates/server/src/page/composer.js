// Where a message is written.

import { isTouch, sends } from "./message.js";

export class Composer {
  #field;
  #send;
  #stop;
  #chats;
  #on;

  /** `on` has `send(text)`, which says whether it went out, `draft(text)` for what is not sent yet, and `editLast()`. */
  constructor({ field, send, stop }, chats, on) {
    this.#field = field;
    this.#send = send;
    this.#stop = stop;
    this.#chats = chats;
    this.#on = on;
    if (isTouch()) field.enterKeyHint = "enter";
    field.addEventListener("input", () => {
      on.draft(field.value);
      this.refresh();
    });
    field.addEventListener("keydown", (event) => this.#key(event));
    send.addEventListener("click", () => this.#submit());
    stop.addEventListener("click", () => {
      chats.stop();
      field.focus();
    });
  }

  focus() {
    // On a phone this would open the keyboard over the conversation.
    if (!isTouch()) this.#field.focus();
  }

  /** Writes a text for the user to send. */
  fill(text, isFocused = false) {
    this.#field.value = String(text);
    this.refresh();
    if (isFocused) this.#field.focus();
  }

  /** Fits the field to its text, and shows the button that does something. */
  refresh() {
    const isRunning = this.#chats.run !== null;
    const hadFocus = document.activeElement === this.#send || document.activeElement === this.#stop;
    this.#field.style.height = "auto";
    this.#field.style.height = `${this.#field.scrollHeight}px`;
    this.#send.hidden = isRunning;
    this.#stop.hidden = !isRunning;
    this.#send.disabled = this.#field.value.trim() === "";
    // Who pressed a button that went away keeps a place.
    if (hadFocus) (isRunning ? this.#stop : this.#field).focus();
  }

  #key(event) {
    // Enter ends the composition of a Korean or Chinese character before it ends the message.
    if (event.isComposing || event.keyCode === 229) return;
    if (sends(event)) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === "ArrowUp" && this.#field.value === "" && !this.#chats.run) {
      event.preventDefault();
      this.#on.editLast();
    }
  }

  #submit() {
    const text = this.#field.value;
    if (text.trim() === "" || this.#chats.run) return;
    if (!this.#on.send(text)) return;
    this.#field.value = "";
    this.#on.draft("");
    this.refresh();
  }
}
