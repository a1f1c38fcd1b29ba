// Colours for code, a line at a time: comments, strings, numbers, keywords. One reader for all languages, told apart by
// what begins a comment and which words are keywords; where it does not know a language it leaves the code plain.

/** Longest line that is coloured. */
const MAX_LINE = 2000;

const words = (text) => new Set(text.split(" "));
const C_LIKE = { line: "//", block: ["/*", "*/"], quotes: "\"'" };
const HASH = { line: "#", quotes: "\"'" };

const RUST = { ...C_LIKE, quotes: '"', words: words("as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while") };
const C = { ...C_LIKE, words: words("alignas auto bool break case catch char class const constexpr continue default delete do double else enum explicit extern false final float for friend goto if inline int long namespace new noexcept nullptr operator override private protected public return short signed sizeof static struct switch template this throw true try typedef typename union unsigned using virtual void volatile while") };
const JAVA = { ...C_LIKE, words: words("abstract boolean break byte case catch char class const continue default do double else enum extends false final finally float for fun if implements import in instanceof int interface is long new null object override package private protected public record return short static super switch synchronized this throw throws true try val var void volatile when while") };
const GO = { ...C_LIKE, quotes: "\"'`", words: words("any bool break byte case chan const continue default defer else error fallthrough false float64 for func go goto if import int interface map nil package range return rune select string struct switch true type uint8 var") };
const SCRIPT = { ...C_LIKE, quotes: "\"'`", words: words("abstract any as async await boolean break case catch class const continue default delete do else enum export extends false finally for from function get if implements import in instanceof interface let new null number of private protected public readonly return set static string super switch this throw true try type typeof undefined var void while yield") };
const PYTHON = { ...HASH, long: ['"""', "'''"], words: words("False None True and as assert async await break class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return self try while with yield") };
const SHELL = { ...HASH, words: words("case cd do done echo elif else esac exit export fi for function if in local return set source sudo then trap unset while") };
const SQL = { line: "--", block: ["/*", "*/"], quotes: "\"'", ignoresCase: true, words: words("add all alter and as asc between by case create cross delete desc distinct drop else end exists foreign from full group having if in index inner insert into is join key left like limit not null offset on or order outer over partition primary references right select set table then union unique update values view when where with") };
const RUBY = { ...HASH, words: words("begin break case class def do else elsif end ensure false for if in module next nil not or private raise require rescue return self super then true unless until when while yield") };
const JSON_WORDS = { quotes: '"', words: words("true false null") };
const CONFIG = { ...HASH, words: words("true false null yes no on off") };
const CSS = { block: ["/*", "*/"], quotes: "\"'", words: words("auto block flex grid inherit initial none solid var") };
const MARKUP = { block: ["<!--", "-->"], quotes: "\"'", words: words("") };

const LANGUAGES = {
  rust: RUST, rs: RUST, c: C, h: C, cpp: C, "c++": C, cc: C, cuda: C, java: JAVA, kotlin: JAVA, kt: JAVA, csharp: JAVA, cs: JAVA,
  "c#": JAVA, go: GO, golang: GO, javascript: SCRIPT, js: SCRIPT, jsx: SCRIPT, mjs: SCRIPT, typescript: SCRIPT, ts: SCRIPT, tsx: SCRIPT,
  python: PYTHON, py: PYTHON, bash: SHELL, sh: SHELL, shell: SHELL, zsh: SHELL, sql: SQL, ruby: RUBY, rb: RUBY, json: JSON_WORDS,
  yaml: CONFIG, yml: CONFIG, toml: CONFIG, ini: CONFIG, dockerfile: CONFIG, css: CSS, html: MARKUP, xml: MARKUP, svg: MARKUP,
};

const WORD = /[\p{L}_$][\p{L}\p{N}_$]*/uy;
const NUMBER = /(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?)/y;
const PLAIN = /[^\p{L}\p{N}_$"'`/#<*-]+/uy;

/** What a language's lines are read with, or null for one that is not known. */
export function languageOf(name) {
  const key = name.toLowerCase();
  return Object.hasOwn(LANGUAGES, key) ? LANGUAGES[key] : null;
}

/**
 * Reads one line. `open` is what the line before left open, null at the start: `{kind, end}`. Returns the line's pieces,
 * `[kind, text]` with kind null, "comment", "string", "number" or "keyword", and what is left open.
 */
export function highlight(line, language, open) {
  const pieces = [];
  const add = (kind, text) => {
    const last = pieces.at(-1);
    if (last && last[0] === kind) last[1] += text;
    else if (text !== "") pieces.push([kind, text]);
  };
  if (line.length > MAX_LINE) return { pieces: [[null, line]], open };
  let at = 0;
  const until = (kind, end, from) => {
    const found = line.indexOf(end, from);
    const stop = found < 0 ? line.length : found + end.length;
    add(kind, line.slice(at, stop));
    at = stop;
    return found < 0 ? { kind, end } : null;
  };
  if (open) open = until(open.kind, open.end, 0);
  while (at < line.length) {
    const long = language.long?.find((quote) => line.startsWith(quote, at));
    if (language.line && line.startsWith(language.line, at) && startsComment(language, line, at)) {
      add("comment", line.slice(at));
      break;
    } else if (language.block && line.startsWith(language.block[0], at)) {
      open = until("comment", language.block[1], at + language.block[0].length);
    } else if (long) open = until("string", long, at + long.length);
    else if (language.quotes?.includes(line[at])) at = string(line, at, add);
    else {
      const [kind, text] = piece(line, at, language);
      add(kind, text);
      at += text.length;
    }
  }
  return { pieces, open };
}

/** In a shell `$#` and `a#b` are none. */
function startsComment(language, line, at) {
  return language.line !== "#" || at === 0 || /\s/.test(line[at - 1]);
}

/** A text in quotes; it ends with its line. An apostrophe in a word begins none. */
function string(line, at, add) {
  const quote = line[at];
  if (quote === "'" && /[\p{L}\p{N}]/u.test(line[at - 1] ?? "")) {
    add(null, quote);
    return at + 1;
  }
  let end = at + 1;
  while (end < line.length && line[end] !== quote) end += line[end] === "\\" ? 2 : 1;
  end = Math.min(end + 1, line.length);
  add("string", line.slice(at, end));
  return end;
}

function piece(line, at, language) {
  for (const [kind, form] of [["word", WORD], ["number", NUMBER], [null, PLAIN]]) {
    form.lastIndex = at;
    const text = form.exec(line)?.[0];
    if (!text) continue;
    const isKeyword = kind === "word" && language.words.has(language.ignoresCase ? text.toLowerCase() : text);
    return [isKeyword ? "keyword" : kind === "word" ? null : kind, text];
  }
  return [null, line[at]];
}
