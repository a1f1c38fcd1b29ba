// How the model samples, and the key. The server says what a setting may be; the ranges here are its own, said earlier.

import { make } from "./dom.js";
import { label, say } from "./words.js";

/** Fields of the request that hold a number. */
const NUMBERS = [
  { name: "temperature", min: 0, max: 2, step: 0.1 },
  { name: "top_p", min: 0, max: 1, step: 0.05 },
  { name: "top_k", min: 0, max: 1_000_000, step: 1, isWhole: true },
  { name: "min_p", min: 0, max: 1, step: 0.01 },
  { name: "max_tokens", min: 1, max: 10_000_000, step: 1, isWhole: true },
  { name: "seed", min: Number.MIN_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER, step: 1, isWhole: true },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1 },
  { name: "repetition_penalty", min: 0.01, max: 100, step: 0.05 },
];

export class Settings {
  #store;
  #session;
  #fields = new Map();
  #stop;
  #key;
  #keep;
  #values;

  /** `place` takes the sampling fields; `key`, `keep` and `show` are the key's field and its two checkboxes. */
  constructor({ place, key, keep, show, reset }, store, session) {
    this.#store = store;
    this.#session = session;
    this.#key = key;
    this.#keep = keep;
    const kept = store.setting("sampling");
    this.#values = typeof kept === "object" && kept !== null ? kept : {};
    for (const field of NUMBERS) place.append(this.#number(field));
    place.append(this.#stopField());
    this.#showValues();

    const stored = store.setting("key");
    keep.checked = typeof stored === "string";
    key.value = keep.checked ? stored : (session.setting("key") ?? "");
    const saveKey = () => this.#saveKey();
    key.addEventListener("change", saveKey);
    keep.addEventListener("change", saveKey);
    show.addEventListener("change", () => (key.type = show.checked ? "text" : "password"));
    reset.addEventListener("click", () => {
      this.#values = {};
      this.#store.set("sampling", undefined);
      this.#showValues();
    });
  }

  /** The fields of a request that the user has set. */
  get sampling() {
    const body = {};
    for (const { name, ...range } of NUMBERS) if (isAllowed(this.#values[name], range)) body[name] = this.#values[name];
    const stop = stopTexts(this.#values.stop);
    if (stop.length > 0) body.stop = stop;
    return body;
  }

  get key() {
    return this.#key.value.trim();
  }

  #number(field) {
    const id = `setting-${field.name}`;
    const input = make("input", { id, type: "number", min: field.min, max: field.max, step: "any", inputMode: "decimal", autocomplete: "off" });
    label(input, "placeholder", "default_value");
    input.setAttribute("aria-describedby", `${id}-hint`);
    // The arrows go by steps; any value between is taken.
    input.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowUp" && event.key !== "ArrowDown") return;
      event.preventDefault();
      const from = input.value === "" ? (field.name === "repetition_penalty" ? 1 : Math.max(field.min, 0)) : Number(input.value);
      const to = from + (event.key === "ArrowUp" ? field.step : -field.step);
      input.value = String(Number(Math.min(Math.max(to, field.min), field.max).toFixed(4)));
      input.dispatchEvent(new Event("input"));
    });
    const hint = label(make("p", { id: `${id}-hint`, className: "hint" }), "text", `${field.name}_hint`);
    input.addEventListener("input", () => {
      const value = input.value === "" && !input.validity.badInput ? undefined : Number(input.value);
      const isRight = value === undefined || (!input.validity.badInput && isAllowed(value, field));
      input.setAttribute("aria-invalid", String(!isRight));
      if (isRight) label(hint, "text", `${field.name}_hint`);
      else {
        delete hint.dataset.words;
        hint.textContent = say("out_of_range", { min: String(field.min), max: String(field.max) });
      }
      if (isRight) this.#set(field.name, value);
    });
    this.#fields.set(field.name, { input, hint });
    const name = label(make("label", { htmlFor: id }), "text", field.name);
    return make("div", { className: "field number" }, name, input, hint);
  }

  #stopField() {
    this.#stop = make("textarea", { id: "setting-stop", rows: 2, spellcheck: false });
    this.#stop.setAttribute("aria-describedby", "setting-stop-hint");
    this.#stop.addEventListener("input", () => this.#set("stop", this.#stop.value || undefined));
    const name = label(make("label", { htmlFor: "setting-stop" }), "text", "stop_texts");
    const hint = label(make("p", { id: "setting-stop-hint", className: "hint" }), "text", "stop_texts_hint");
    return make("div", { className: "field" }, name, this.#stop, hint);
  }

  #set(name, value) {
    if (value === undefined) delete this.#values[name];
    else this.#values[name] = value;
    this.#store.set("sampling", this.#values);
  }

  #showValues() {
    for (const [name, { input, hint }] of this.#fields) {
      input.value = this.#values[name] ?? "";
      input.setAttribute("aria-invalid", "false");
      label(hint, "text", `${name}_hint`);
    }
    this.#stop.value = typeof this.#values.stop === "string" ? this.#values.stop : "";
  }

  #saveKey() {
    const key = this.key || undefined;
    this.#session.set("key", this.#keep.checked ? undefined : key);
    this.#store.set("key", this.#keep.checked ? key : undefined);
  }
}

function isAllowed(value, { min, max, isWhole }) {
  return typeof value === "number" && value >= min && value <= max && (!isWhole || Number.isSafeInteger(value));
}

/** One text a line; `\n` is a line break, `\t` a tab, `\\` a backslash. */
export function stopTexts(text) {
  if (typeof text !== "string") return [];
  const characters = { n: "\n", t: "\t", "\\": "\\" };
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => line.replace(/\\([nt\\])/g, (_, letter) => characters[letter]));
}
