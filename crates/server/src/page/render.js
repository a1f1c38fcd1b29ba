// The tree of `markdown.js` as elements, kept in step with it as it grows. Elements are made one by one and text is set as
// text, so that whatever a model says stays something to read.

import { icon, make, renew } from "./dom.js";
import { highlight, languageOf } from "./highlight.js";
import { parseInline } from "./inline.js";
import { Markdown } from "./markdown.js";
import { label } from "./words.js";

/** A text that grows inside of an element. */
export class GrowingText {
  #markdown = new Markdown();
  #root;

  constructor(element) {
    this.#root = new Container(element, this.#markdown.root);
  }

  /** Takes more text; call it once a frame, not once a token. */
  push(text) {
    this.#markdown.push(text);
    this.#root.sync(this.#markdown.open);
  }

  /** Takes the end. */
  finish() {
    this.#markdown.finish();
    this.#root.sync(null);
  }
}

/** A node with children, and the elements of those that are shown. */
class Container {
  #shown = [];

  constructor(element, node) {
    this.element = element;
    this.node = node;
  }

  /** Only the end of a tree changes: what was last before may have changed, and what came behind it is new. */
  sync(open) {
    const children = this.node.children;
    const shown = this.#shown;
    if (this.node.type === "list") this.element.classList.toggle("tight", !this.node.loose);
    while (shown.length > 0 && shown.at(-1).node !== children[shown.length - 1]) shown.pop().element.remove();
    for (let i = Math.max(shown.length - 1, 0); i < children.length; i++) {
      if (i === shown.length) {
        // The first line of a table looks like a paragraph until its second comes.
        if (children[i] === open && open.type === "paragraph" && /^\|[^\n]*$/.test(open.text)) break;
        shown.push(view(children[i]));
        this.element.append(shown[i].element);
      }
      shown[i].sync(open);
    }
  }
}

function view(node) {
  switch (node.type) {
    case "quote":
      return new Container(make("blockquote"), node);
    case "list":
      return new Container(node.ordered ? make("ol", { start: node.start }) : make("ul"), node);
    case "item":
      return new Container(item(node), node);
    case "code":
      return new Code(node);
    case "math":
      return new MathText(node);
    case "table":
      return new Table(node);
    case "rule":
      return { node, element: make("hr"), sync() {} };
    default:
      return new Text(node);
  }
}

function item(node) {
  if (node.task === null) return make("li");
  const box = make("input", { type: "checkbox", disabled: true, checked: node.task });
  label(box, "aria-label", node.task ? "task_done" : "task_open");
  return make("li", { className: "task" }, box);
}

/** A paragraph or a heading. */
class Text {
  #text = null;
  #isOpen = false;

  constructor(node) {
    this.node = node;
    // The page's own headings are the first two levels.
    this.element = node.type === "heading" ? make(`h${Math.min(node.level + 2, 6)}`) : make("p");
    this.element.dir = "auto";
  }

  sync(open) {
    const isOpen = open === this.node;
    if (this.node.text === this.#text && isOpen === this.#isOpen) return;
    this.#text = this.node.text;
    this.#isOpen = isOpen;
    renew(this.element, ...inline(parseInline(this.#text, isOpen)));
  }
}

/** Code under its language's name and a button that copies it. A line that is complete is made once. */
class Code {
  #code = make("code");
  #language;
  #open = null;
  /** Lines that are complete. */
  #lines = 0;

  constructor(node) {
    this.node = node;
    this.#language = languageOf(node.language);
    const copy = make("button", { type: "button", className: "quiet copy-code" }, icon("copy"), label(make("span"), "text", "copy"));
    label(copy, "aria-label", "copy_code");
    const pre = make("pre", { tabIndex: 0, role: "group" }, this.#code);
    label(pre, "aria-label", "code");
    const name = make("span", { className: "language" }, node.language || "");
    this.element = make("div", { className: "code" }, make("div", { className: "code-head" }, name, copy), pre);
  }

  sync(open) {
    const lines = this.node.lines;
    // The last line of code that goes on may still grow.
    const complete = open === this.node ? Math.max(lines.length - 1, 0) : lines.length;
    while (this.#code.childNodes.length > this.#lines) this.#code.lastChild.remove();
    for (; this.#lines < complete; this.#lines++) this.#code.append(this.#line(lines[this.#lines], true));
    if (complete < lines.length) this.#code.append(this.#line(lines[complete], false));
  }

  #line(text, isComplete) {
    const element = make("span");
    if (this.#language) {
      const { pieces, open } = highlight(text, this.#language, this.#open);
      if (isComplete) this.#open = open;
      element.append(...pieces.map(([kind, piece]) => (kind ? make("span", { className: `code-${kind}` }, piece) : piece)));
    } else element.append(text);
    if (isComplete) element.append("\n");
    return element;
  }
}

/** Formulas as they were written: there is no typesetting here, and they can be copied. */
class MathText {
  #code = make("code");

  constructor(node) {
    this.node = node;
    this.element = make("div", { className: "math", tabIndex: 0, role: "group" }, this.#code);
    label(this.element, "aria-label", "formula");
  }

  sync() {
    this.#code.textContent = this.node.lines.join("\n");
  }
}

class Table {
  #head = make("thead");
  #body = make("tbody");
  #rows = [];

  constructor(node) {
    this.node = node;
    const table = make("table", {}, this.#head, this.#body);
    this.element = make("div", { className: "table", tabIndex: 0, role: "group" }, table);
    label(this.element, "aria-label", "table");
  }

  sync() {
    const rows = this.node.rows;
    while (this.#rows.length > 0 && this.#rows.at(-1).row !== rows[this.#rows.length - 1]) this.#rows.pop().element.remove();
    for (let i = this.#rows.length; i < rows.length; i++) {
      const element = make("tr", {}, ...rows[i].map((cell, column) => this.#cell(cell, column, i === 0)));
      this.#rows.push({ row: rows[i], element });
      (i === 0 ? this.#head : this.#body).append(element);
    }
  }

  #cell(text, column, isHead) {
    const align = this.node.align[column];
    const cell = make(isHead ? "th" : "td", { className: align ? `align-${align}` : "" }, ...inline(parseInline(text)));
    if (isHead) cell.scope = "col";
    return cell;
  }
}

function inline(nodes) {
  return nodes.map((node) => {
    if (typeof node === "string") return node;
    switch (node.type) {
      case "break":
        return make("br");
      case "code":
        return make("code", {}, node.text);
      case "math":
        return make("code", { className: "formula" }, node.text);
      case "link":
        // The address was checked where it was parsed: http, https or mailto.
        return make("a", { href: node.href, target: "_blank", rel: "noopener noreferrer", title: node.href }, ...inline(node.children));
      default:
        return make(node.type, {}, ...inline(node.children));
    }
  });
}
