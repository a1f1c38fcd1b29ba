// The keyboard's shortcuts, and the list of them.

import { make } from "./dom.js";
import { say } from "./words.js";

const isMac = /Mac|iPhone|iPad/.test(navigator.platform ?? "");
const MOD = isMac ? "⌘" : "Ctrl";

const LIST = [
  ["key_send", "Enter"],
  ["key_line", "Shift", "Enter"],
  ["key_stop", "Esc"],
  ["key_edit", "↑"],
  ["key_scroll", "PgUp", "PgDn"],
  ["key_new", MOD, "Shift", "O"],
  ["key_search", MOD, "K"],
  ["key_sidebar", MOD, "Shift", "S"],
  ["key_settings", MOD, ","],
  ["key_shortcuts", MOD, "/"],
];

/** Fills a `<dl>` with them. */
export function showKeys(list) {
  list.replaceChildren(
    ...LIST.map(([key, ...keys]) =>
      make("div", {}, make("dt", {}, say(key)), make("dd", {}, ...keys.map((name) => make("kbd", {}, name)))),
    ),
  );
}

/** Calls `on`'s functions. Escape goes to the first that says it did something. */
export function listenToKeys(on) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return;
    const isDialogOpen = document.querySelector("dialog[open]") !== null;
    if (event.key === "Escape") {
      if (!isDialogOpen && (on.closeDrawer() || on.stop())) event.preventDefault();
      return;
    }
    const pages = { PageUp: -1, PageDown: 1 }[event.key];
    // In the message field these keys would do nothing else.
    if (pages && !isDialogOpen && event.target.id === "message") {
      event.preventDefault();
      on.scroll(pages);
      return;
    }
    const isMod = isMac ? event.metaKey : event.ctrlKey;
    if (!isMod || event.altKey || isDialogOpen) return;
    // With a Korean keyboard on, `key` is a Korean letter: the place of the key counts.
    const action = {
      KeyO: event.shiftKey && on.newChat,
      KeyK: !event.shiftKey && on.search,
      KeyS: event.shiftKey && on.sidebar,
      Comma: !event.shiftKey && on.settings,
      Slash: !event.shiftKey && on.shortcuts,
    }[event.code];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
