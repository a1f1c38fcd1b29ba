// The Markdown reader: what texts become, that growing changes nothing, that hostile texts stay cheap and harmless.
// `run.sh` lays the page's files beside this one.

import assert from "node:assert/strict";
import { test } from "node:test";

import { parseInline, safeHref } from "./inline.js";
import { Markdown } from "./markdown.js";

/** A tree as one line, which reads like what it means. */
function shape(node) {
  const inside = () => node.children.map(shape).join(" ");
  switch (node.type) {
    case "document":
      return inside();
    case "quote":
      return `quote(${inside()})`;
    case "list":
      return `${node.ordered ? `ol${node.start}` : "ul"}${node.loose ? "~" : ""}(${inside()})`;
    case "item":
      return `${node.task === null ? "" : node.task ? "[x]" : "[ ]"}{${inside()}}`;
    case "paragraph":
      return `p:${node.text.replaceAll("\n", "/")}`;
    case "heading":
      return `h${node.level}:${node.text}`;
    case "code":
      return `code:${node.language}<${node.lines.join("/")}>`;
    case "math":
      return `math<${node.lines.join("/")}>`;
    case "table":
      return `table:${node.align.map((align) => align ?? "-").join(",")}<${node.rows.map((row) => row.join("|")).join("/")}>`;
    default:
      return node.type;
  }
}

function blocks(text) {
  const markdown = new Markdown();
  markdown.push(text);
  markdown.finish();
  return shape(markdown.root);
}

/** Inline nodes as one line. */
function line(text, isOpen = false) {
  const show = (nodes) =>
    nodes
      .map((node) => {
        if (typeof node === "string") return node;
        if (node.type === "break") return "/";
        if (node.type === "link") return `<${node.href}>(${show(node.children)})`;
        return `${node.type}(${node.text ?? show(node.children)})`;
      })
      .join("");
  return show(parseInline(text, isOpen));
}

const BLOCKS = {
  "one\ntwo\n\nthree": "p:one/two p:three",
  "# One\n## Two ##\n###### Six\n####### seven": "h1:One h2:Two h6:Six p:####### seven",
  "#hashtag": "p:#hashtag",
  "Title\n=====\nSub\n---": "h1:Title h2:Sub",
  "a\nb\n---": "p:a/b rule",
  "***\n- - -\n___": "rule rule rule",
  "> a\nlazy\n> > deep\n\nout": "quote(p:a/lazy quote(p:deep)) p:out",
  "- a\n- b\n  more\n- c": "ul({p:a} {p:b/more} {p:c})",
  "- a\n\n- b": "ul~({p:a} {p:b})",
  "* a\n    * b\n        * c\n* d": "ul({p:a ul({p:b ul({p:c})})} {p:d})",
  "1. a\n   - x\n   - y\n2. b": "ol1({p:a ul({p:x} {p:y})} {p:b})",
  "3) a\n4) b": "ol3({p:a} {p:b})",
  "- a\n+ b": "ul({p:a}) ul({p:b})",
  "It was\n2024. A year": "p:It was/2024. A year",
  "Steps:\n1. a\n2. b": "p:Steps: ol1({p:a} {p:b})",
  "- [x] done\n- [ ] open\n- [y] no": "ul([x]{p:done} [ ]{p:open} {p:[y] no})",
  "1. a\n\n   ```py\n   x = 1\n     y\n   ```\n\n2. b": "ol1~({p:a code:py<x = 1/  y>} {p:b})",
  "- a\n\nout": "ul({p:a}) p:out",
  "- a\n\n  in": "ul~({p:a p:in})",
  "> - a\n> - b\n\nc": "quote(ul({p:a} {p:b})) p:c",
  "- > q\n  > r": "ul({quote(p:q/r)})",
  "```rust\nfn main() {}\n\n# no heading\n```\nafter": "code:rust<fn main() {}//# no heading> p:after",
  "~~~\n```\n~~~~": "code:<```>",
  "```\nnever closed": "code:<never closed>",
  "```js {1,2}\nx\n```": "code:js<x>",
  "a ```b``` c": "p:a ```b``` c",
  "\tcode\n\nafter": "code:<code> p:after",
  "para\n    not code": "p:para/not code",
  "```make\nall:\n\techo\n```": "code:make<all:/\techo>",
  "| a | b |\n|---|:-:|\n| 1 | 2 |\n| 3 |\n\nend": "table:-,center<a|b/1|2/3> p:end",
  "a | b\n:-- | --:\n`x\\|y` | z": "table:left,right<a|b/`x|y`|z>",
  "text\n| a |\n|---|\n| 1 |\nafter": "p:text table:-<a/1> p:after",
  "| a | b |\n|---|": "p:| a | b |/|---|",
  "\\[\nx = 1\n- y\n\\]\nend": "math<x = 1/- y> p:end",
  "$$ a_1 $$": "math<a_1>",
  "\\[ x \\] in words": "p:\\[ x \\] in words",
  "a\r\n\r\nb\r\n": "p:a p:b",
  "": "",
  "\n\n\n": "",
  "-": "ul({})",
  "<script>alert(1)</script>": "p:<script>alert(1)</script>",
};

const LINES = {
  "**bold** *em* ***both*** ~~gone~~ `code`": "strong(bold) em(em) em(strong(both)) del(gone) code(code)",
  "__bold__ _em_ snake_case_name": "strong(bold) em(em) snake_case_name",
  "5 * 3 * 2 and 2**3": "5 * 3 * 2 and 2**3",
  "*a **b** c*": "em(a strong(b) c)",
  "*a**b*": "em(a**b)",
  "**a *b** c*": "em(em(a em(b)) c)",
  "`` a ` b `` and `c": "code(a ` b) and `c",
  "**중요**합니다 **“인용”**입니다": "strong(중요)합니다 strong(“인용”)입니다",
  "这是**重点（注意）**后文": "这是strong(重点（注意）)后文",
  "a\nb": "a/b",
  "\\*no\\* \\a": "*no* \\a",
  "[text](https://x.org/a_(b) \"title\") end": "<https://x.org/a_(b)>(text) end",
  "[a **b**](https://x.org)": "<https://x.org/>(a strong(b))",
  "[relative](/path) [none] [x]()": "[relative](/path) [none] [x]()",
  "![picture](https://x.org/p.png)": "<https://x.org/p.png>(picture)",
  "see https://x.org/a?b=c. And (https://x.org/d)": "see <https://x.org/a?b=c>(https://x.org/a?b=c). And (<https://x.org/d>(https://x.org/d))",
  "https://x.org/路径。之后": "<https://x.org/%E8%B7%AF%E5%BE%84>(https://x.org/路径)。之后",
  "<https://x.org> <a@b.org> <b>": "<https://x.org/>(https://x.org) <mailto:a@b.org>(a@b.org) <b>",
  "a<br>b<br/>c": "a/b/c",
  "&lt;b&gt; &amp; &#65; &#x1F600; &bogus; &#0;": "<b> & A 😀 &bogus; \ufffd",
  "&toString; &valueOf; &isProto; **a**": "&toString; &valueOf; &isProto; strong(a)",
  "\\(a_1 * b_2\\) and $x^2$ costs $5 or $6": "math(a_1 * b_2) and math(x^2) costs $5 or $6",
  "[[a](https://x.org)](https://y.org)": "<https://y.org/>(a)",
  "**[WARN] x**": "strong([WARN] x)",
};

for (const [text, expected] of Object.entries(BLOCKS)) {
  test(`blocks of ${JSON.stringify(text)}`, () => assert.equal(blocks(text), expected));
}

for (const [text, expected] of Object.entries(LINES)) {
  test(`inside of ${JSON.stringify(text)}`, () => assert.equal(line(text), expected));
}

test("a text that grows by any pieces becomes the same as the whole", () => {
  const all = Object.keys(BLOCKS).join("\n\n");
  const whole = blocks(all);
  for (const size of [1, 2, 3, 7, 64]) {
    const markdown = new Markdown();
    for (let at = 0; at < all.length; at += size) markdown.push(all.slice(at, at + size));
    markdown.finish();
    assert.equal(shape(markdown.root), whole, `pieces of ${size}`);
  }
});

test("while a text grows, what it shows is what its beginning would be", () => {
  // Only a line whose meaning is open may be missing, and the last one of a block may look otherwise.
  const markdown = new Markdown();
  const text = "# Title\n\nWords **bold**\n\n- one\n- two\n\n```py\nx = 1\n```\n";
  for (let at = 0; at < text.length; at++) {
    markdown.push(text[at]);
    const now = shape(markdown.root);
    assert.ok([shape(markdown.root), ""].includes(now));
    if (text.slice(0, at + 1).endsWith("Words")) assert.equal(now, "h1:Title p:Words");
    if (text.slice(0, at + 1).endsWith("- tw")) assert.equal(now, "h1:Title p:Words **bold** ul({p:one} {p:tw})");
    if (text.slice(0, at + 1).endsWith("x = ")) assert.equal(now, "h1:Title p:Words **bold** ul({p:one} {p:two}) code:py<x = >");
  }
});

test("only the web and mail are linked to", () => {
  const hostile = [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\tscript:alert(1)", "java\nscript:alert(1)",
    "\u0001javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "vbscript:x", "file:///etc/passwd", "blob:https://x/y",
    "//x.org", "/path", "?q", "#a", "", "about:blank", `https://x.org/${"a".repeat(5000)}`,
  ];
  for (const address of hostile) assert.equal(safeHref(address), null, address);
  for (const address of ["https://x.org/", "http://x.org/", "mailto:a@b.org"]) assert.equal(safeHref(address), address);
  for (const text of ["[x](javascript:alert(1))", "[x](<javascript:alert(1)>)", "<javascript:alert(1)>", "[x](java&#115;cript:alert(1))"]) {
    assert.ok(parseInline(text).every((node) => node.type !== "link"), text);
  }
});

test("of a text that still grows, emphasis without its end lasts until the end", () => {
  assert.equal(line("a **b", true), "a strong(b)");
  assert.equal(line("a **b *c", true), "a strong(b em(c))");
  assert.equal(line("a `b", true), "a code(b)");
  assert.equal(line("a **b", false), "a **b");
  assert.equal(line("a **", true), "a **");
});

test("nesting is bounded", () => {
  const depth = (node) => 1 + Math.max(0, ...(node.children ?? []).map(depth));
  for (const text of [">".repeat(5000), "- ".repeat(5000), `${"> - ".repeat(3000)}x`, "1. ".repeat(3000)]) {
    const markdown = new Markdown();
    markdown.push(text);
    markdown.finish();
    assert.ok(depth(markdown.root) < 40);
  }
  const deep = "*a **b ".repeat(3000) + "b** a*".repeat(3000);
  assert.ok(Math.max(...parseInline(deep).map(depth)) < 40);
  assert.ok(Math.max(...parseInline(`${"[".repeat(3000)}a${"](https://x.org)".repeat(3000)}`).map(depth)) < 40);
});

test("a hostile text costs what its length costs", () => {
  const n = 50_000;
  const texts = {
    stars: "*".repeat(n), words: "*a ".repeat(n), closers: "a* ".repeat(n), mixed: "_a *b ".repeat(n), ticks: "`".repeat(n),
    runs: Array.from({ length: 400 }, (_, i) => "`".repeat(i)).join(" "), brackets: "[".repeat(n), links: "[](".repeat(n),
    parens: `[a](${"(".repeat(n)}`, pairs: "[a](()".repeat(n), dollars: "$a".repeat(n), angles: "<".repeat(n), entities: "&#".repeat(n),
    urls: "http://".repeat(n), escapes: "\\".repeat(n), maths: "\\(".repeat(n), spaces: `${" ".repeat(n)}x`, tabs: "\t".repeat(n),
    heading: `# ${" ".repeat(n)}x ${"#".repeat(n)}y`, fence: "```\n".repeat(n), quotes: ">\n".repeat(n), items: "-\n".repeat(n),
    pipes: "|".repeat(n), rows: "|-\n".repeat(n), table: `|a|b|\n|-|-|\n${"|1|2|\n".repeat(n)}`, rule: `${"- ".repeat(n)}x`,
    lines: "a\n".repeat(n), nested: "*a **b ".repeat(5000) + "b** a*".repeat(5000), tildes: "~~a ".repeat(n),
  };
  for (const [name, text] of Object.entries(texts)) {
    const began = performance.now();
    const markdown = new Markdown();
    markdown.push(text);
    markdown.finish();
    const visit = (node) => (node.text !== undefined ? parseInline(node.text) : (node.children ?? []).forEach(visit));
    visit(markdown.root);
    parseInline(text);
    parseInline(text, true);
    assert.ok(performance.now() - began < 2000, `${name}: ${performance.now() - began} ms`);
  }
});

test("a long answer that comes in small pieces is read once", () => {
  const paragraph = "Some **words** and `code`, then more of them.\n\n- item\n  - item\n\n```py\nprint(1)\n```\n\n";
  const time = (count) => {
    const began = performance.now();
    const markdown = new Markdown();
    const text = paragraph.repeat(count);
    for (let at = 0; at < text.length; at += 4) markdown.push(text.slice(at, at + 4));
    markdown.finish();
    return performance.now() - began;
  };
  time(200);
  const [short, long] = [time(400), time(3200)];
  assert.ok(long < Math.max(short, 5) * 8 * 3, `8 times the text took ${(long / short).toFixed(1)} times as long`);
});
