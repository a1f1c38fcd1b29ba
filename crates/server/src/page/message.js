// One message on the page, with what can be done to it.

import { versions } from "./conversation.js";
import { copyText, icon, make, renew } from "./dom.js";
import { GrowingText } from "./render.js";
import { label, number, say } from "./words.js";

/** Seconds for which a button says that it copied. */
const COPIED_SECONDS = 2;
/** How often the speed of a growing answer is said, in milliseconds. */
const RATE_EVERY = 500;
/** A frame's work may take this share of the time at most: a text that is slow to show is shown less often. */
const PAUSE_PER_COST = 3;

/** A button of an icon, with its name in a tip. */
function tool(name, key, onclick) {
  const button = make("button", { type: "button", className: "tool", onclick }, icon(name));
  label(button, "aria-label", key);
  return label(button, "title", key);
}

/** Copies, and says so on the button for a while. */
export async function copyWith(button, text) {
  const isCopied = await copyText(text);
  const drawing = button.querySelector(".icon");
  const words = button.querySelector("span");
  if (isCopied) drawing?.replaceWith(icon("check"));
  if (words) label(words, "text", isCopied ? "copied" : "copy_failed");
  setTimeout(() => {
    button.querySelector(".icon")?.replaceWith(icon("copy"));
    if (words) label(words, "text", "copy");
  }, COPIED_SECONDS * 1000);
  return isCopied;
}

export class MessageView {
  #body = make("div", { className: "body" });
  #notice = make("div", { className: "notice", hidden: true });
  #versions = make("div", { className: "versions", role: "group", hidden: true });
  #stats = make("span", { className: "stats" });
  #tools = make("div", { className: "tools" });
  #again = null;
  #growing = null;
  #waiting = "";
  /** The text that is shown. */
  #shown = "";
  #isScheduled = false;
  #resumeAt = 0;
  #rateAt = 0;
  #editor = null;

  /** `on` has `turn(node, by)`, `edit(node, text)`, `again(node)`, `key()`, `shown()`, `copied(isCopied)` and `rate()`, tokens a second so far. */
  constructor(conversation, node, isGrowing, on) {
    this.conversation = conversation;
    this.node = node;
    this.on = on;
    const isUser = node.role === "user";
    const name = label(make("h2", { className: "visually-hidden" }), "text", isUser ? "you" : "assistant");
    this.element = make("article", { className: `message ${node.role}`, tabIndex: -1 }, name, this.#body, this.#notice, this.#tools);
    this.element.dataset.id = node.id;
    const copy = tool("copy", "copy_message", async () => on.copied(await copyWith(copy, this.node.content)));
    if (isUser) {
      this.#body.dir = "auto";
      this.#tools.append(this.#versions, copy, tool("edit", "edit", () => this.edit()));
    } else {
      this.#again = tool("again", "again", () => on.again(this.node));
      label(this.#stats, "aria-label", "stats");
      this.#stats.setAttribute("role", "group");
      this.#tools.append(this.#versions, copy, this.#again, this.#stats);
    }
    this.#showText(isGrowing);
    this.refresh(isGrowing);
  }

  #showText(isGrowing) {
    this.#shown = this.node.content;
    if (this.node.role === "user") {
      this.#body.textContent = this.#shown;
      return;
    }
    this.#body.replaceChildren();
    this.#growing = new GrowingText(this.#body);
    this.#growing.push(this.#shown);
    if (!isGrowing) this.#growing.finish();
  }

  /** Takes more of the answer; it is shown with the next frame. */
  grow(text) {
    this.#waiting += text;
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const show = () => requestAnimationFrame(() => this.#flush());
    const wait = this.#resumeAt - performance.now();
    if (wait > 16) setTimeout(show, wait);
    else show();
  }

  #flush() {
    this.#isScheduled = false;
    if (this.#waiting === "" || !this.#growing) return;
    const began = performance.now();
    this.#growing.push(this.#waiting);
    this.#shown += this.#waiting;
    this.#waiting = "";
    this.element.classList.remove("waiting");
    this.on.shown();
    const ended = performance.now();
    if (ended > this.#rateAt) this.#showRate(ended);
    this.#resumeAt = ended + (ended - began) * PAUSE_PER_COST;
  }

  #showRate(now) {
    this.#rateAt = now + RATE_EVERY;
    const rate = this.on.rate();
    if (rate === null) return;
    this.#stats.textContent = say("rate", { rate: number(rate, 1) });
    this.#stats.hidden = false;
  }

  /** The answer has ended, whole or not. */
  end() {
    this.#flush();
    this.#growing?.finish();
    this.refresh(false);
    this.on.shown();
  }

  /** Shows what is around the text: versions, figures, how it ended. */
  refresh(isGrowing) {
    const { node } = this;
    const isWaiting = isGrowing && node.content === "";
    this.element.classList.toggle("growing", isGrowing);
    this.element.classList.toggle("waiting", isWaiting);
    if (isGrowing) {
      this.#notice.hidden = true;
      this.#stats.hidden = true;
      return;
    }
    // Another tab may have written on.
    if (node.content !== this.#shown) this.#showText(false);
    this.#refreshVersions();
    if (node.role !== "assistant") return;
    this.#refreshStats();
    const notice = this.#noticeText();
    this.#notice.hidden = notice === null;
    this.#notice.classList.toggle("error", node.ended === "failed");
    if (notice === null) return;
    if (!renew(this.#notice, make("span", {}, notice), ...this.#remedies())) this.element.focus();
  }

  /** The buttons for an answer that failed. */
  #remedies() {
    const { node } = this;
    if (node.ended === "length" || node.ended === "aborted") return [];
    const button = (key, onclick) => label(make("button", { type: "button", className: "quiet", onclick }), "text", key);
    const retry = button("retry", () => this.on.again(node));
    return node.needsKey ? [retry, button("enter_key", () => this.on.key())] : [retry];
  }

  #noticeText() {
    switch (this.node.ended) {
      case "length":
        return say("ended_length");
      case "aborted":
        return say("ended_stop");
      case "failed":
        return this.node.error ?? say("ended_early");
      case undefined:
        return say("ended_early");
      default:
        return null;
    }
  }

  #refreshVersions() {
    const all = versions(this.conversation, this.node);
    this.#versions.hidden = all.length < 2;
    if (all.length < 2) return;
    const at = all.indexOf(this.node);
    const previous = tool("left", "previous_version", () => this.on.turn(this.node, -1));
    const next = tool("right", "next_version", () => this.on.turn(this.node, 1));
    previous.disabled = at === 0;
    next.disabled = at === all.length - 1;
    const place = make("span", { "aria-hidden": "true" }, `${at + 1}/${all.length}`);
    renew(this.#versions, previous, place, next);
    this.#versions.setAttribute("aria-label", say("version_of", { number: at + 1, count: all.length }));
  }

  /** Gives the focus to the button that goes this way, or to the other at the last version. */
  focusTurn(by) {
    const [previous, , next] = this.#versions.children;
    const [wanted, other] = by < 0 ? [previous, next] : [next, previous];
    (wanted?.disabled ? other : wanted)?.focus();
  }

  #refreshStats() {
    const { stats } = this.node;
    const parts = [];
    if (stats?.rate) parts.push(say("rate", { rate: number(stats.rate, 1) }));
    if (stats?.first_ms !== undefined) parts.push(say("first_token", { seconds: number(stats.first_ms / 1000, 2) }));
    if (stats?.isEstimate) parts.push(say("counts_out", { completion: stats.completion }));
    else if (stats) parts.push(say("counts", { prompt: stats.prompt ?? 0, completion: stats.completion ?? 0 }));
    this.#stats.replaceChildren(...parts.map((part) => make("span", {}, part)));
    this.#stats.hidden = parts.length === 0;
  }

  /** Opens the message for writing; what is sent is another version of it. */
  edit() {
    if (this.#editor || this.node.role !== "user") return;
    const field = make("textarea", { value: this.node.content, rows: 1, dir: "auto" });
    label(field, "aria-label", "edit_label");
    const close = () => {
      this.#editor.remove();
      this.#editor = null;
      this.element.classList.remove("editing");
      this.#tools.querySelector(".tool:last-child").focus();
    };
    const send = () => {
      if (field.value.trim() !== "" && this.on.edit(this.node, field.value)) return;
      field.focus();
    };
    const cancel = label(make("button", { type: "button", className: "plain", onclick: close }), "text", "cancel");
    const submit = label(make("button", { type: "button", className: "primary", onclick: send }), "text", "edit_send");
    this.#editor = make("div", { className: "editor" }, field, make("div", { className: "buttons" }, cancel, submit));
    field.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Escape") close();
      else if (sends(event)) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const fit = () => {
      field.style.height = "auto";
      field.style.height = `${field.scrollHeight}px`;
    };
    field.addEventListener("input", fit);
    this.element.classList.add("editing");
    this.#body.after(this.#editor);
    fit();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}

/** Whether a key in a message's field sends it: Enter, and with Ctrl or Command also where Enter begins a new line. */
export function sends(event) {
  return event.key === "Enter" && (event.ctrlKey || event.metaKey || (!event.shiftKey && !isTouch()));
}

/** On a screen keyboard Enter begins a new line, and a button sends. */
export function isTouch() {
  return matchMedia("(pointer: coarse) and (hover: none)").matches;
}
