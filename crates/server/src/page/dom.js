// Making elements. Text becomes text nodes only: nothing here, and nothing on this page, parses HTML.

/** An element with properties, attributes (those with a dash, and `role`), listeners (`onclick`) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/**
 * Puts new children in the place of the old ones. A link or a button among them that had the focus gives it to the one that
 * comes at its place; false where there is none.
 */
export function renew(parent, ...children) {
  const hadFocus = parent.contains(document.activeElement);
  const focusable = () => [...parent.querySelectorAll("a, button")];
  const place = hadFocus ? focusable().indexOf(document.activeElement) : -1;
  parent.replaceChildren(...children);
  if (!hadFocus) return true;
  focusable()[place]?.focus();
  return parent.contains(document.activeElement);
}

const SVG = "http://www.w3.org/2000/svg";

/** Lines of a 20 × 20 drawing. */
const ICONS = {
  copy: "M7 7V4.5A1.5 1.5 0 0 1 8.5 3h7A1.5 1.5 0 0 1 17 4.5v7a1.5 1.5 0 0 1-1.5 1.5H13M4.5 7h7A1.5 1.5 0 0 1 13 8.5v7a1.5 1.5 0 0 1-1.5 1.5h-7A1.5 1.5 0 0 1 3 15.5v-7A1.5 1.5 0 0 1 4.5 7z",
  check: "M4 10.5l4 4 8-9",
  edit: "M13.5 3.5l3 3L7 16l-4 1 1-4z",
  again: "M16 5v4h-4M16 9a6.2 6.2 0 1 0 .2 3.5",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  trash: "M4 6h12M8 6V4h4v2M5.5 6l.7 10.5h7.6L14.5 6M8.5 9v4.5M11.5 9v4.5",
};

/** A drawing beside words that say the same. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Puts a text on the clipboard; false where the browser does not let it. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain HTTP from another machine there is no `clipboard`; the older way still works there.
    const area = make("textarea", { value: text, className: "visually-hidden", readOnly: true, "aria-hidden": "true" });
    // What is hidden from sight does not wrap; a copy of it would lose its indentation.
    area.style.whiteSpace = "pre";
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    focused?.focus?.();
    return isCopied;
  }
}

/** Offers a text as a file. */
export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
