// Markdown's blocks, line by line, as an answer grows.
//
// CommonMark's way: a stack of open containers, of which each line continues some and opens others, and one open leaf. A
// line is looked at once; only the last, still without its line break, is parsed for the time being and taken back when
// more of it comes. So a long answer costs what its length costs. What comes out is a tree of plain objects:
//
//   {type: "document" | "quote", children}
//   {type: "list", ordered, start, loose, children: [{type: "item", task, children}]}
//   {type: "paragraph", text}   {type: "heading", level, text}   {type: "rule"}
//   {type: "code", language, lines}   {type: "math", lines}
//   {type: "table", align, rows}, the header first, cells as text
//
// Changes are always to the end of the tree: to a node that was the last of its parent, or behind it.

/** Most containers inside each other; markers of more are text. */
const MAX_DEPTH = 24;
/** Most columns of a table. */
const MAX_COLUMNS = 64;

const FENCE = /^(`{3,})([^`]*)$|^(~{3,})(.*)$/;
const HEADING = /^(#{1,6})(?=[ \t]|$)/;
const RULE = /^(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const BULLET = /^([-+*])(?=[ \t]|$)/;
const NUMBER = /^(\d{1,9})([.)])(?=[ \t]|$)/;
const TASK = /^\[([ xX])\][ \t]+(?=\S)/;
const DELIMITER_ROW = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
/** A line, without white space at its end, of which nobody can say yet what it becomes. */
const ONLY_MARKERS = /^[\s>\-+*=_#`~|:]*(?:\d{1,9}[.)]?)?$/;

/** A line, and how far it is read. */
class Line {
  constructor(text) {
    this.rest = text;
  }

  /** Columns of white space that come next; a tab counts four. */
  indent() {
    let columns = 0;
    for (const character of this.rest) {
      if (character === " ") columns += 1;
      else if (character === "\t") columns += 4;
      else break;
    }
    return columns;
  }

  isBlank() {
    return !/\S/.test(this.rest);
  }

  /** Skips white space, at most so many columns of it. */
  skip(columns) {
    let at = 0;
    while (columns > 0 && at < this.rest.length) {
      if (this.rest[at] === " ") columns -= 1;
      else if (this.rest[at] === "\t") {
        if (columns < 4) {
          // A tab of which a part is left over.
          this.rest = " ".repeat(4 - columns) + this.rest.slice(at + 1);
          return;
        }
        columns -= 4;
      } else break;
      at += 1;
    }
    this.rest = this.rest.slice(at);
  }
}

export class Markdown {
  root = { type: "document", children: [] };
  /** What is open, from the document inwards. */
  #stack = [this.root];
  /** The open paragraph, code, math or table; a child of the stack's last. */
  #leaf = null;
  #isAfterBlank = false;
  /** The last line, as far as it has come. */
  #pending = "";
  /** How to take back what `#pending` did. */
  #undo = null;

  /** Takes more text. */
  push(text) {
    this.#takeBack();
    const lines = (this.#pending + text).split("\n");
    this.#pending = lines.pop();
    for (const line of lines) this.#line(line);
    if (this.#pending !== "" && !this.#isUncertain()) {
      this.#undo = this.#snapshot();
      this.#line(this.#pending);
    }
  }

  /** Takes the end of the text. */
  finish() {
    this.#takeBack();
    if (this.#pending !== "") this.#line(this.#pending);
    this.#pending = "";
    this.#leaf = null;
    this.#stack.length = 1;
  }

  /** The leaf that may still grow, if any. */
  get open() {
    return this.#leaf;
  }

  #isUncertain() {
    if (this.#leaf?.type === "code" && this.#leaf.fence) return /^[\s>]*(`+|~+)\s*$/.test(this.#pending);
    return ONLY_MARKERS.test(this.#pending.trimEnd());
  }

  /** Remembers all that one line can change: the ends of what is open. */
  #snapshot() {
    const leaf = this.#leaf;
    return {
      stack: [...this.#stack],
      ends: this.#stack.map((node) => ({ length: node.children.length, last: node.children.at(-1), loose: node.loose })),
      leaf,
      text: leaf?.text,
      lines: leaf?.lines?.length,
      rows: leaf?.rows?.length,
      isAfterBlank: this.#isAfterBlank,
    };
  }

  #takeBack() {
    const undo = this.#undo;
    if (!undo) return;
    this.#undo = null;
    this.#stack = undo.stack;
    this.#stack.forEach((node, i) => {
      const { length, last, loose } = undo.ends[i];
      node.children.length = length;
      if (length > 0) node.children[length - 1] = last;
      if (node.type === "list") node.loose = loose;
    });
    this.#leaf = undo.leaf;
    if (undo.text !== undefined) this.#leaf.text = undo.text;
    if (undo.lines !== undefined) this.#leaf.lines.length = undo.lines;
    if (undo.rows !== undefined) this.#leaf.rows.length = undo.rows;
    this.#isAfterBlank = undo.isAfterBlank;
  }

  #line(text) {
    const line = new Line(text.endsWith("\r") ? text.slice(0, -1) : text);
    let depth = this.#continued(line);
    const isContinued = depth === this.#stack.length;
    const isBlank = line.isBlank();

    if (isContinued && (this.#leaf?.type === "code" || this.#leaf?.type === "math") && this.#verbatim(line)) return;
    if (isBlank) {
      this.#close(depth);
      this.#isAfterBlank = true;
      return;
    }

    let isNew = false;
    for (;;) {
      const opened = this.#container(line, depth, isContinued && !isNew);
      if (!opened) break;
      isNew = true;
      depth = this.#stack.length;
    }
    const isPlain = isContinued && !isNew;
    if (isPlain && this.#leaf?.type === "table" && line.rest.includes("|") && !this.#startsLeaf(line)) {
      this.#leaf.rows.push(cells(line.rest, this.#leaf.align.length));
    } else if (isPlain && this.#leaf?.type === "paragraph" && this.#underlined(line)) {
      // The paragraph has become a heading or a table.
    } else if (!this.#startLeaf(line, depth, isNew)) {
      if (this.#leaf?.type === "paragraph" && !isNew) {
        // Also where its containers are not continued: CommonMark's lazy lines.
        this.#leaf.text += `\n${line.rest.trim()}`;
      } else {
        this.#close(depth);
        this.#leaf = this.#add({ type: "paragraph", text: line.rest.trim() });
      }
    }
    this.#isAfterBlank = false;
  }

  /** How many of the open containers the line continues; their markers are read. */
  #continued(line) {
    let depth = 1;
    for (; depth < this.#stack.length; depth++) {
      const node = this.#stack[depth];
      if (node.type === "quote") {
        if (line.indent() > 3 || line.rest.trimStart()[0] !== ">") break;
        readQuoteMarker(line);
      } else if (node.type === "item") {
        if (line.isBlank()) {
          // An item may begin with one empty line, not with two.
          if (node.children.length === 0) break;
        } else if (line.indent() >= node.offset) line.skip(node.offset);
        else break;
      }
    }
    return depth;
  }

  /** Takes a line of code or mathematics; false where the leaf ends before it. */
  #verbatim(line) {
    const leaf = this.#leaf;
    if (leaf.type === "math") {
      const end = line.rest.indexOf(leaf.end);
      if (end >= 0) this.#leaf = null;
      const text = end >= 0 ? line.rest.slice(0, end) : line.rest;
      if (end < 0 || text.trim() !== "") leaf.lines.push(text);
      return true;
    }
    if (leaf.fence) {
      const closing = line.indent() <= 3 && /^[ \t]*(`{3,}|~{3,})[ \t]*$/.exec(line.rest);
      if (closing && closing[1][0] === leaf.fence[0] && closing[1].length >= leaf.fence.length) {
        leaf.isClosed = true;
        this.#leaf = null;
        return true;
      }
      line.skip(leaf.indent);
      leaf.lines.push(line.rest);
      return true;
    }
    if (line.isBlank() || line.indent() < 4) return false;
    line.skip(4);
    leaf.lines.push(line.rest);
    return true;
  }

  /** Opens a quote or a list item, if the line's next characters do. */
  #container(line, depth, isPlain) {
    if (depth >= MAX_DEPTH || line.indent() > 3 || line.isBlank()) return false;
    const rest = line.rest.trimStart();
    if (rest[0] === ">") {
      this.#close(depth);
      this.#push({ type: "quote", children: [] });
      readQuoteMarker(line);
      return true;
    }
    if (RULE.test(rest)) return false;
    const bullet = BULLET.exec(rest);
    const number = bullet ? null : NUMBER.exec(rest);
    if (!bullet && !number) return false;
    const marker = (bullet ?? number)[0];
    const behind = rest.slice(marker.length);
    const interrupts = isPlain && this.#leaf?.type === "paragraph" && this.#stack.at(-1).type !== "item";
    // Inside of a sentence "2024. It was" begins no list.
    if (interrupts && (behind.trim() === "" || (number && Number(number[1]) !== 1))) return false;

    const kind = bullet ? bullet[1] : number[2];
    const before = line.indent();
    line.skip(before);
    line.rest = line.rest.slice(marker.length);
    const space = line.indent();
    const padding = line.isBlank() || space > 4 ? 1 : space;
    line.skip(padding);

    const list = this.#stack[depth - 1];
    this.#close(depth, list.type === "list" && list.kind === kind);
    let parent = this.#stack.at(-1);
    if (parent.type !== "list" || parent.kind !== kind) {
      parent = this.#push({ type: "list", kind, ordered: !bullet, start: number ? Number(number[1]) : 1, loose: false, children: [] });
    } else if (this.#isAfterBlank) parent.loose = true;
    const task = bullet && TASK.exec(line.rest);
    if (task) line.rest = line.rest.slice(task[0].length);
    this.#stack.push({ type: "item", offset: before + marker.length + padding, task: task ? task[1] !== " " : null, children: [] });
    parent.children.push(this.#stack.at(-1));
    this.#isAfterBlank = false;
    return true;
  }

  #startsLeaf(line) {
    const rest = line.rest.trimStart();
    return line.indent() <= 3 && (HEADING.test(rest) || FENCE.test(rest) || RULE.test(rest));
  }

  /** Opens a leaf other than a paragraph, if the line does. */
  #startLeaf(line, depth, isNew) {
    const rest = line.rest.trimStart();
    if (line.isBlank()) {
      // An item's marker with nothing behind it.
      this.#close(depth, true);
      return true;
    }
    if (line.indent() > 3) {
      if (this.#leaf?.type === "paragraph" && !isNew) return false;
      this.#close(depth);
      line.skip(4);
      this.#leaf = this.#add({ type: "code", language: "", lines: [line.rest] });
      return true;
    }
    const heading = HEADING.exec(rest);
    if (heading) {
      this.#close(depth);
      const text = rest.slice(heading[1].length).trim();
      this.#add({ type: "heading", level: heading[1].length, text: text.replace(/(^|[ \t])#+$/, "").trimEnd() });
      return true;
    }
    const fence = FENCE.exec(rest);
    if (fence) {
      this.#close(depth);
      const language = (fence[2] ?? fence[4] ?? "").trim().split(/[\s{]/)[0].slice(0, 40);
      this.#leaf = this.#add({ type: "code", language, fence: fence[1] ?? fence[3], indent: line.indent(), lines: [] });
      return true;
    }
    if (RULE.test(rest)) {
      this.#close(depth);
      this.#add({ type: "rule" });
      return true;
    }
    const end = rest.startsWith("\\[") ? "\\]" : rest.startsWith("$$") ? "$$" : null;
    if (end) {
      const inside = rest.slice(2);
      const at = inside.indexOf(end);
      // With words behind its end it is a part of a sentence.
      if (at >= 0 && inside.slice(at + 2).trim() !== "") return false;
      this.#close(depth);
      const text = at < 0 ? inside : inside.slice(0, at);
      const math = this.#add({ type: "math", end, lines: text.trim() === "" ? [] : [text.trim()] });
      if (at < 0) this.#leaf = math;
      return true;
    }
    return false;
  }

  /** Makes a heading or a table of the open paragraph, if the line under it does. */
  #underlined(line) {
    const paragraph = this.#leaf;
    const rest = line.rest.trim();
    if (line.indent() > 3 || !/^[-=|: \t]+$/.test(rest)) return false;
    if (/^=+$/.test(rest) || (/^-+$/.test(rest) && !paragraph.text.includes("\n"))) {
      this.#replaceLeaf({ type: "heading", level: rest[0] === "=" ? 1 : 2, text: paragraph.text });
      return true;
    }
    const headerAt = paragraph.text.lastIndexOf("\n") + 1;
    const headerRow = paragraph.text.slice(headerAt);
    if (!DELIMITER_ROW.test(rest) || !(rest.includes("|") || headerRow.includes("|"))) return false;
    const delimiters = cells(rest, MAX_COLUMNS + 1);
    const header = cells(headerRow, MAX_COLUMNS + 1);
    if (header.length !== delimiters.length || header.length > MAX_COLUMNS) return false;
    const align = delimiters.map((cell) => {
      const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
      return left && right ? "center" : right ? "right" : left ? "left" : null;
    });
    const table = { type: "table", align, rows: [header] };
    if (headerAt === 0) this.#replaceLeaf(table);
    else {
      paragraph.text = paragraph.text.slice(0, headerAt - 1);
      this.#add(table);
    }
    this.#leaf = table;
    return true;
  }

  #replaceLeaf(node) {
    const children = this.#stack.at(-1).children;
    children[children.length - 1] = node;
    this.#leaf = null;
  }

  /** Closes the leaf and all containers from `depth` on; a list that is to get no item, too. */
  #close(depth, keepsList = false) {
    this.#leaf = null;
    this.#stack.length = depth;
    if (!keepsList && this.#stack.at(-1).type === "list" && depth > 1) this.#stack.length -= 1;
  }

  /** Adds a block to the innermost container. */
  #add(node) {
    const parent = this.#stack.at(-1);
    if (parent.type === "item" && parent.children.length > 0 && this.#isAfterBlank) this.#stack.at(-2).loose = true;
    parent.children.push(node);
    return node;
  }

  #push(node) {
    this.#stack.push(this.#add(node));
    return node;
  }
}

function readQuoteMarker(line) {
  line.skip(3);
  line.rest = line.rest.slice(1);
  line.skip(1);
}

/** A row's cells. A pipe in a code span or behind a backslash is none of the row's. */
function cells(row, most) {
  const text = row.trim();
  const found = [];
  let cell = "";
  let at = text[0] === "|" ? 1 : 0;
  while (at < text.length && found.length < most) {
    if (text[at] === "\\" && text[at + 1] === "|") {
      cell += "|";
      at += 2;
    } else if (text[at] === "|") {
      found.push(cell.trim());
      cell = "";
      at += 1;
    } else {
      cell += text[at];
      at += 1;
    }
  }
  if (found.length < most && cell.trim() !== "") found.push(cell.trim());
  return found;
}
