// Server-sent events: bytes to the texts behind `data:`, as the HTML standard reads them.

/** Longest event, in characters. */
const MAX_EVENT = 4 << 20;

export class EventReader {
  #decoder = new TextDecoder();
  #rest = "";
  #data = [];
  #size = 0;

  /** Takes bytes and returns the events that they complete. Throws a RangeError over an event that has no end. */
  push(bytes) {
    const events = [];
    const text = this.#rest + this.#decoder.decode(bytes, { stream: true });
    // A carriage return at the end may be half of a line break.
    const held = text.endsWith("\r") ? 1 : 0;
    const lines = text.slice(0, text.length - held).split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + text.slice(text.length - held);
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) events.push(this.#data.join("\n"));
        this.#data = [];
        this.#size = 0;
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line[5] === " " ? 6 : 5));
        this.#size += line.length;
      }
    }
    if (this.#rest.length + this.#size > MAX_EVENT) throw new RangeError(`an event is longer than ${MAX_EVENT} characters`);
    return events;
  }
}
