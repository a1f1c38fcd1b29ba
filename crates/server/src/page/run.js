// An answer under way: it grows its message, measures, and tells whoever looks.

import { chat } from "./api.js";

/** How often a growing answer is saved, in milliseconds. */
const SAVE_EVERY = 2000;

export class Run {
  #abort = new AbortController();
  #node;
  #started = performance.now();
  #first = null;
  #last = null;
  /** Pieces of text, of which each is about one token. */
  #pieces = 0;
  #saved = performance.now();

  /**
   * Starts it. `node` is the answer's message. `on` has `grow(text)`, `save()` and `end(error)`, error null where the answer
   * is whole or was stopped.
   */
  constructor(node, body, key, on) {
    this.#node = node;
    this.finished = this.#go(body, key, on);
  }

  stop() {
    this.#abort.abort();
  }

  /** Tokens a second so far, or null. */
  get rate() {
    return rateOf(this.#pieces, this.#first, this.#last);
  }

  async #go(body, key, on) {
    let error = null;
    try {
      for await (const piece of chat(body, key, this.#abort.signal)) {
        if (piece.text) this.#grow(piece.text, on);
        else if (piece.finish) this.#node.ended = piece.finish;
        else this.#count(piece.usage);
      }
    } catch (caught) {
      if (caught.name !== "AbortError") error = caught;
    }
    if (this.#abort.signal.aborted) this.#node.ended ??= "aborted";
    // A stream that ends without a reason was cut off: that is said where the message is shown.
    if (error) {
      this.#node.ended = "failed";
      this.#node.error = error.message;
      this.#node.needsKey = error.status === 401;
    }
    this.#measure();
    on.end(error);
  }

  #grow(text, on) {
    const now = performance.now();
    this.#first ??= now;
    this.#last = now;
    this.#pieces += 1;
    this.#node.content += text;
    on.grow(text);
    if (now - this.#saved > SAVE_EVERY) {
      this.#saved = now;
      on.save();
    }
  }

  #count(usage) {
    this.#node.stats = { prompt: usage.prompt_tokens, completion: usage.completion_tokens };
  }

  #measure() {
    if (this.#first === null) return;
    const stats = (this.#node.stats ??= { completion: this.#pieces, isEstimate: true });
    stats.first_ms = Math.round(this.#first - this.#started);
    const rate = rateOf(stats.completion, this.#first, this.#last);
    if (rate !== null) stats.rate = Math.round(rate * 10) / 10;
  }
}

/** The first token's time is the prompt's; what follows it is the speed. */
function rateOf(tokens, first, last) {
  return tokens > 1 && last > first ? ((tokens - 1) * 1000) / (last - first) : null;
}
