// A growing answer for those who hear it: whole sentences, each said once. A screen reader that was given every token would
// stutter, and one that was given only the end would be silent for long.

import { say } from "./words.js";

/** Ends of sentences: Latin ones before white space, Chinese and Korean ones anywhere. */
const SENTENCE_END = /[.!?…:;](?=\s)|[。！？；…]|\n/g;
/** Sentences kept in the region; a reader has long said the others. */
const MAX_SENTENCES = 20;
/** Shortest piece that is said by itself, in characters. */
const MIN_LENGTH = 40;
/** Longest piece that waits for its end, in characters. */
const MAX_LENGTH = 1000;

export class Speech {
  #region;
  #rest = "";
  #codeLines = null;
  #isInTable = false;

  /** `region` is a visually hidden `aria-live="polite"` element. */
  constructor(region) {
    this.#region = region;
  }

  /** Says one thing now. */
  say(text) {
    const sentence = document.createElement("p");
    sentence.textContent = text;
    this.#region.append(sentence);
    while (this.#region.childElementCount > MAX_SENTENCES) this.#region.firstElementChild.remove();
  }

  begin() {
    this.#rest = "";
    this.#codeLines = null;
    this.#isInTable = false;
    this.say(say("answering"));
  }

  /** Takes more of the answer, and says what sentences it completes. */
  push(text) {
    this.#rest += text;
    let end = 0;
    for (const found of this.#rest.matchAll(SENTENCE_END)) {
      const at = found.index + 1;
      if (found[0] === "\n" || at - end >= MIN_LENGTH) {
        this.#piece(this.#rest.slice(end, at), found[0] === "\n");
        end = at;
      }
    }
    this.#rest = this.#rest.slice(end);
    // A text without ends of sentences is looked at again with every push; past this it is said as it is.
    if (this.#rest.length > MAX_LENGTH) {
      this.#piece(this.#rest, false);
      this.#rest = "";
    }
  }

  finish() {
    this.#piece(this.#rest, true);
    this.#endCode();
    this.#rest = "";
    this.say(say("answered"));
  }

  #piece(text, isLine) {
    const line = text.trim();
    if (/^(```|~~~)/.test(line)) {
      if (this.#codeLines === null) this.#codeLines = 0;
      else this.#endCode();
      return;
    }
    if (this.#codeLines !== null) {
      if (isLine) this.#codeLines += 1;
      return;
    }
    const isRow = line.startsWith("|");
    if (isRow && !this.#isInTable) this.say(say("spoken_table"));
    this.#isInTable = isRow || (this.#isInTable && !isLine);
    const words = plain(line);
    if (words !== "" && !(isRow && /^[|\s:-]+$/.test(line))) this.say(words);
  }

  #endCode() {
    if (this.#codeLines !== null) this.say(say("spoken_code", { lines: this.#codeLines }));
    this.#codeLines = null;
  }
}

/** A line without its marks. */
function plain(line) {
  return line
    .replace(/!?\[([^[\]]{0,500})\]\([^()\s]{0,2000}\)/g, "$1")
    .replace(/^(?:[#>\s]+|[-+*]\s)+/, "")
    .replace(/^[-*_]{3,}$/, "")
    .replace(/[*`|]+/g, " ")
    .replace(/\s+/g, " ")
    .trim();
}
