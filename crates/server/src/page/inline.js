// Markdown inside of a block: a text becomes an array of strings and of
//
//   {type: "strong" | "em" | "del", children}   {type: "link", href, children}
//   {type: "code" | "math", text}   {type: "break"}
//
// CommonMark's rules, with three changes. Emphasis ends also between a mark and a Chinese, Japanese or Korean character,
// where no one writes a space. A line break breaks the line. And pictures are links, so that reading an answer fetches
// nothing. HTML is text, save for <br>.

/** Deepest nesting of emphasis and links; what would go deeper stays as it was written. */
const MAX_DEPTH = 16;
/** How many unmatched marks a closing one looks back over. */
const MAX_LOOK_BACK = 64;
/** Longest address of a link. */
const MAX_HREF = 4096;

const SPECIAL = /[\\`*_~[\]!<&$\n]|https?:\/\//g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const SPACE = /\s/u;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const CJK = /[\p{Script=Han}\p{Script=Hangul}\p{Script=Hiragana}\p{Script=Katakana}\u3000-\u303f\uff00-\uffef]/u;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", hellip: "…", mdash: "—", ndash: "–", copy: "©", times: "×" };
/** Where a bare address ends: at white space, a bracket, or punctuation that no address has. */
const BARE_URL = /https?:\/\/[^\s<>"`|\\^{}\u3000-\u303f\uff00-\uffef\u201c\u201d]{1,2000}/y;

/** Of an open text, which may go on, emphasis without its end lasts until the end. */
export function parseInline(text, isOpen = false) {
  return new Inline(text, isOpen).parse();
}

/** An address that a link may have, or null: only the web and mail. */
export function safeHref(address) {
  if (address.length > MAX_HREF) return null;
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

class Inline {
  #text;
  #isOpen;
  #at = 0;
  /** What is read: strings, nodes, `{mark, count, …}` for emphasis and `{bracket}` for what may become a link. */
  #out = [];
  /** Where in `#out` marks stand that may open something. */
  #marks = [];
  #brackets = [];
  /** Lengths of backtick runs, and ends of mathematics, that do not come any more. */
  #missing = new Set();

  constructor(text, isOpen) {
    this.#text = text;
    this.#isOpen = isOpen;
  }

  parse() {
    const text = this.#text;
    while (this.#at < text.length) {
      SPECIAL.lastIndex = this.#at;
      const found = SPECIAL.exec(text);
      const next = found ? found.index : text.length;
      if (next > this.#at) this.#out.push(text.slice(this.#at, next));
      this.#at = next;
      if (found) this.#special(found[0][0]);
    }
    if (this.#isOpen) this.#closeOpen();
    return finished(this.#out);
  }

  /** Takes what begins at `#at`; at least one character. */
  #special(character) {
    const text = this.#text;
    switch (character) {
      case "\\":
        return this.#escape();
      case "`":
        return this.#code();
      case "*":
      case "_":
      case "~":
        return this.#mark(character);
      case "!":
        if (text[this.#at + 1] !== "[") return this.#literal(1);
        this.#brackets.push(this.#out.length);
        this.#out.push({ bracket: "![" });
        this.#at += 2;
        return;
      case "[":
        this.#brackets.push(this.#out.length);
        this.#out.push({ bracket: "[" });
        this.#at += 1;
        return;
      case "]":
        return this.#closeBracket();
      case "<":
        return this.#angle();
      case "&":
        return this.#entity();
      case "$":
        return this.#dollar();
      case "\n":
        this.#out.push({ type: "break" });
        this.#at += 1;
        return;
      default:
        return this.#bareUrl();
    }
  }

  #literal(length) {
    this.#out.push(this.#text.slice(this.#at, this.#at + length));
    this.#at += length;
  }

  #escape() {
    const next = this.#text[this.#at + 1] ?? "";
    if (next === "(" || next === "[") {
      if (this.#math(2, next === "(" ? "\\)" : "\\]")) return;
    }
    if (next === "\n") {
      this.#out.push({ type: "break" });
      this.#at += 2;
    } else if (ESCAPABLE.test(next)) {
      this.#out.push(next);
      this.#at += 2;
    } else this.#literal(1);
  }

  #code() {
    const run = /`+/y;
    run.lastIndex = this.#at;
    const fence = run.exec(this.#text)[0];
    const from = this.#at + fence.length;
    const end = this.#endOfRun(fence, from);
    if (end < 0 && !(this.#isOpen && fence.length === 1 && from < this.#text.length)) return this.#literal(fence.length);
    const inside = (end < 0 ? this.#text.slice(from) : this.#text.slice(from, end)).replaceAll("\n", " ");
    const isPadded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim() !== "";
    this.#out.push({ type: "code", text: isPadded ? inside.slice(1, -1) : inside });
    this.#at = end < 0 ? this.#text.length : end + fence.length;
  }

  /** Where the next run of exactly these backticks is. */
  #endOfRun(fence, from) {
    if (this.#missing.has(fence)) return -1;
    const runs = /`+/g;
    runs.lastIndex = from;
    for (let run = runs.exec(this.#text); run; run = runs.exec(this.#text)) {
      if (run[0].length === fence.length) return run.index;
    }
    this.#missing.add(fence);
    return -1;
  }

  #math(length, end) {
    if (this.#missing.has(end)) return false;
    const from = this.#at + length;
    const at = this.#text.indexOf(end, from);
    if (at < 0) {
      this.#missing.add(end);
      return false;
    }
    if (at === from) return false;
    this.#out.push({ type: "math", text: this.#text.slice(from, at).trim() });
    this.#at = at + end.length;
    return true;
  }

  /** `$x$` is mathematics where no price could be meant. */
  #dollar() {
    if (this.#text[this.#at + 1] === "$") {
      if (!this.#math(2, "$$")) this.#literal(2);
      return;
    }
    const formula = /\$(?=\S)([^$\n]{1,300})(?<=\S)\$(?![\d$])/y;
    formula.lastIndex = this.#at;
    const found = formula.exec(this.#text);
    if (!found) return this.#literal(1);
    this.#out.push({ type: "math", text: found[1] });
    this.#at += found[0].length;
  }

  #entity() {
    const entity = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([a-zA-Z]{2,8}));/y;
    entity.lastIndex = this.#at;
    const found = entity.exec(this.#text);
    if (!found) return this.#literal(1);
    const code = found[1] ? Number(found[1]) : found[2] ? Number.parseInt(found[2], 16) : null;
    const isCharacter = code !== null && code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000);
    // A name of every object's own, as `toString`, is none of an entity.
    const named = Object.hasOwn(ENTITIES, found[3]) ? ENTITIES[found[3]] : undefined;
    const character = code === null ? named : isCharacter ? String.fromCodePoint(code) : "\ufffd";
    if (character === undefined) return this.#literal(1);
    this.#out.push(character);
    this.#at += found[0].length;
  }

  #angle() {
    const tag = /<br\s{0,8}\/?>|<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>|<([\w.+-]{1,64}@[\w.-]{1,250})>/iy;
    tag.lastIndex = this.#at;
    const found = tag.exec(this.#text);
    if (!found) return this.#literal(1);
    const shown = found[1] ?? found[2];
    const href = shown && safeHref(found[2] ? `mailto:${shown}` : shown);
    if (shown && !href) return this.#literal(1);
    this.#out.push(shown ? { type: "link", href, children: [shown] } : { type: "break" });
    this.#at += found[0].length;
  }

  #bareUrl() {
    BARE_URL.lastIndex = this.#at;
    const found = /\w/.test(this.#text[this.#at - 1] ?? "") ? null : BARE_URL.exec(this.#text);
    if (!found) return this.#literal(4);
    const url = withoutTrail(found[0]);
    const href = safeHref(url);
    if (!href) return this.#literal(Math.max(url.length, 4));
    // Inside of brackets the address is the link's text.
    this.#out.push(this.#brackets.length > 0 ? url : { type: "link", href, children: [url] });
    this.#at += url.length;
  }

  #closeBracket() {
    const at = this.#brackets.pop();
    if (at === undefined) return this.#literal(1);
    const { bracket } = this.#out[at];
    const target = this.#target();
    const href = target && safeHref(target.address);
    const children = href ? finished(this.#out.slice(at + 1)) : null;
    if (!href || depthOf(children) >= MAX_DEPTH) {
      this.#out[at] = bracket;
      return this.#literal(1);
    }
    this.#out.length = at;
    while (this.#marks.at(-1) >= at) this.#marks.pop();
    // A link in a link is text.
    this.#out.push({ type: "link", href, children: plain(children) || [href] });
    this.#at = target.end;
  }

  /** `(address "title")` behind a closing bracket. */
  #target() {
    const form = /\]\(\s{0,8}(?:<([^<>\n]{0,4096})>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.){0,4096}\)){0,4096}))(?:\s{1,8}(?:"[^"]{0,1000}"|'[^']{0,1000}'))?\s{0,8}\)/y;
    form.lastIndex = this.#at;
    const found = form.exec(this.#text);
    if (!found) return null;
    const address = (found[1] ?? found[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1");
    return { address, end: this.#at + found[0].length };
  }

  /** A run of `*`, `_` or `~`: closes what it can, and may open. */
  #mark(character) {
    const text = this.#text;
    let end = this.#at;
    while (text[end] === character) end += 1;
    let count = end - this.#at;
    const before = characterBefore(text, this.#at);
    const after = characterAt(text, end);
    this.#at = end;
    if (character === "~" && count !== 2) {
      this.#out.push(character.repeat(count));
      return;
    }
    const [isSpaceBefore, isSpaceAfter] = [isSpace(before), isSpace(after)];
    const [isMarkBefore, isMarkAfter] = [PUNCTUATION.test(before), PUNCTUATION.test(after)];
    const left = !isSpaceAfter && (!isMarkAfter || isSpaceBefore || isMarkBefore || CJK.test(before));
    const right = !isSpaceBefore && (!isMarkBefore || isSpaceAfter || isMarkAfter || CJK.test(after));
    const canOpen = left && (character !== "_" || !right || isMarkBefore);
    const canClose = right && (character !== "_" || !left || isMarkAfter);

    while (canClose && count > 0) {
      const opener = this.#opener(character, count, canOpen);
      if (opener === null) break;
      const mark = this.#out[opener];
      const used = character === "~" ? 2 : Math.min(2, count, mark.count);
      const children = finished(this.#out.slice(opener + 1));
      if (children.length === 0 || depthOf(children) >= MAX_DEPTH) {
        // What would hold this would be deeper still, and each try looks at all that lies between.
        if (children.length > 0) this.#marks.length = 0;
        break;
      }
      this.#out.length = opener + 1;
      while (this.#marks.at(-1) > opener) this.#marks.pop();
      mark.count -= used;
      if (mark.count === 0) {
        this.#out.pop();
        this.#marks.pop();
      }
      this.#out.push({ type: character === "~" ? "del" : used === 2 ? "strong" : "em", children });
      count -= used;
    }
    if (count === 0) return;
    if (canOpen) {
      this.#marks.push(this.#out.length);
      this.#out.push({ mark: character, count, canClose });
    } else this.#out.push(character.repeat(count));
  }

  /** Where the nearest mark stands that this one closes. What a bracket holds is closed inside of it. */
  #opener(character, count, canOpen) {
    const floor = this.#brackets.at(-1) ?? -1;
    const last = this.#marks.length - 1;
    for (let i = last; i >= 0 && i > last - MAX_LOOK_BACK; i--) {
      const at = this.#marks[i];
      if (at < floor) break;
      const mark = this.#out[at];
      if (mark.mark !== character) continue;
      // CommonMark's rule of three, which keeps `*a**b*` one emphasis.
      const isOdd = (canOpen || mark.canClose) && (mark.count + count) % 3 === 0 && !(mark.count % 3 === 0 && count % 3 === 0);
      if (!isOdd) return at;
    }
    return null;
  }

  /** Lets open emphasis last until the end of what has come so far. */
  #closeOpen() {
    for (let i = Math.min(this.#marks.length, MAX_DEPTH); i > 0; i--) {
      const at = this.#marks.pop();
      const mark = this.#out[at];
      const children = finished(this.#out.slice(at + 1));
      if (children.length === 0 || mark.count > 2 || depthOf(children) >= MAX_DEPTH) continue;
      this.#out.length = at;
      this.#out.push({ type: mark.mark === "~" ? "del" : mark.count === 2 ? "strong" : "em", children });
    }
  }
}

/** Marks and brackets that were left become text, and texts that touch become one. */
function finished(items) {
  const nodes = [];
  for (const item of items) {
    const node = item.mark ? item.mark.repeat(item.count) : (item.bracket ?? item);
    if (typeof node === "string" && typeof nodes.at(-1) === "string") nodes[nodes.length - 1] += node;
    else if (node !== "") nodes.push(node);
  }
  return nodes;
}

/** How deep nodes are nested; kept on the node, so that nobody counts twice. */
function depthOf(nodes) {
  let depth = 0;
  for (const node of nodes) {
    if (node.children) depth = Math.max(depth, (node.depth ??= depthOf(node.children) + 1));
  }
  return depth;
}

/** The nodes without links; null where nothing is left. */
function plain(nodes) {
  const found = nodes.flatMap((node) => {
    if (node.type === "link") return plain(node.children) ?? [];
    return node.children ? [{ ...node, children: plain(node.children) ?? [] }] : [node];
  });
  return found.length > 0 ? found : null;
}

/** A bare address without the sentence's punctuation behind it. */
function withoutTrail(url) {
  let end = url.length;
  let open = 0;
  for (const character of url) open += character === "(" ? 1 : character === ")" ? -1 : 0;
  for (; end > 0; end--) {
    const last = url[end - 1];
    if (last === ")" && open < 0) open += 1;
    else if (!"?!.,:;*_~'\"]".includes(last)) break;
  }
  return url.slice(0, end);
}

function isSpace(character) {
  return character === "" || SPACE.test(character);
}

function characterBefore(text, at) {
  const low = text.charCodeAt(at - 1);
  return at === 0 ? "" : low >= 0xdc00 && low < 0xe000 && at > 1 ? text.slice(at - 2, at) : text[at - 1];
}

function characterAt(text, at) {
  return at < text.length ? String.fromCodePoint(text.codePointAt(at)) : "";
}
