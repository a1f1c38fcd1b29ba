// What the page says, in each of its languages, and elements that say it. `{name}` is filled in.

import { ENGLISH } from "./words-en.js";
import { KOREAN } from "./words-ko.js";
import { CHINESE } from "./words-zh.js";

export const LANGUAGES = { en: ENGLISH, ko: KOREAN, zh: CHINESE };

let language = "en";

/** The first of the wanted languages that the page has; English otherwise. */
export function bestLanguage(wanted) {
  for (const tag of wanted) {
    const short = String(tag).toLowerCase().split("-")[0];
    if (Object.hasOwn(LANGUAGES, short)) return short;
  }
  return "en";
}

/** The language now. */
export function currentLanguage() {
  return language;
}

/** Speaks another language from now on, in all elements that `label` and the page's HTML have marked. */
export function speak(name) {
  language = name;
  document.documentElement.lang = name;
  for (const element of document.querySelectorAll("[data-words]")) apply(element);
}

/** A sentence. Numbers are written as the language writes them. */
export function say(key, values = {}) {
  return LANGUAGES[language][key].replace(/\{(\w+)\}/g, (_, name) => number(values[name]));
}

/** A number as the language writes it; anything else as it is. */
export function number(value, digits = 0) {
  return typeof value === "number" ? value.toLocaleString(language, { maximumFractionDigits: digits }) : String(value);
}

/** Gives an element words: as its text, or as an attribute. They change with the language. */
export function label(element, place, key) {
  const all = (element.dataset.words ?? "").split(" ").filter((entry) => entry && !entry.startsWith(`${place}:`));
  element.dataset.words = [...all, `${place}:${key}`].join(" ");
  apply(element);
  return element;
}

function apply(element) {
  for (const entry of element.dataset.words.split(" ")) {
    const [place, key] = entry.split(":");
    if (place === "text") element.textContent = say(key);
    else element.setAttribute(place, say(key));
  }
}
