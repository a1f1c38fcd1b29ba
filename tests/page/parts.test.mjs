// The page's parts that need no browser: event streams, the tree of a conversation, files, storage, colours, speech.

import assert from "node:assert/strict";
import { test } from "node:test";

import { append, choose, merge, newConversation, path, requestMessages, titleOf, versions } from "./conversation.js";
import { highlight, languageOf } from "./highlight.js";
import { stopTexts } from "./settings.js";
import { Speech } from "./speech.js";
import { EventReader } from "./sse.js";
import { Store } from "./store.js";
import { fileName, fromJson, toJson, toMarkdown } from "./transfer.js";
import { bestLanguage } from "./words.js";

const bytes = (text) => new TextEncoder().encode(text);

test("events are the same however their bytes are cut", () => {
  const stream = bytes(': hello\n\ndata: {"a":"가나"}\r\n\r\ndata:two\rdata: lines\r\revent: x\nid: 1\n\ndata: [DONE]\n\ndata: not ended');
  const expected = ['{"a":"가나"}', "two\nlines", "[DONE]"];
  for (let size = 1; size <= stream.length; size++) {
    const reader = new EventReader();
    const events = [];
    for (let at = 0; at < stream.length; at += size) events.push(...reader.push(stream.slice(at, at + size)));
    assert.deepEqual(events, expected, `pieces of ${size}`);
  }
});

test("an event without an end is refused", () => {
  const reader = new EventReader();
  const piece = bytes("x".repeat(1 << 20));
  assert.throws(() => {
    reader.push(bytes("data: "));
    for (let i = 0; i < 8; i++) reader.push(piece);
  }, RangeError);
});

function talk() {
  const conversation = newConversation("Be brief.");
  const question = append(conversation, null, "user", "one");
  const answer = append(conversation, question.id, "assistant", "1");
  return { conversation, question, answer };
}

test("versions stand side by side, and what follows each stays with it", () => {
  const { conversation, question, answer } = talk();
  const follow = append(conversation, answer.id, "user", "two");
  const other = append(conversation, question.id, "assistant", "uno");
  assert.deepEqual(path(conversation), [question, other]);
  assert.deepEqual(versions(conversation, other), [answer, other]);
  choose(conversation, answer);
  assert.deepEqual(path(conversation), [question, answer, follow]);
  assert.deepEqual(requestMessages(conversation, follow), [
    { role: "system", content: "Be brief." },
    { role: "user", content: "one" },
    { role: "assistant", content: "1" },
    { role: "user", content: "two" },
  ]);
});

test("two tabs that went on with the same conversation lose nothing", () => {
  const { conversation, answer } = talk();
  const copy = JSON.parse(JSON.stringify(conversation));
  append(conversation, answer.id, "user", "mine");
  append(copy, answer.id, "user", "theirs");
  copy.nodes[1].content = "1 and more";
  merge(conversation, copy);
  assert.deepEqual(conversation.nodes.map((node) => node.content), ["one", "1 and more", "mine", "theirs"]);
  assert.equal(path(conversation).at(-1).content, "mine", "what this tab shows stays");
});

test("titles are cut at a word", () => {
  assert.equal(titleOf("  # Hello\nworld"), "Hello");
  assert.equal(titleOf(`${"word ".repeat(30)}`).length, 60);
  assert.equal(titleOf("가".repeat(100)), `${"가".repeat(60)}…`);
  assert.equal(titleOf("😀".repeat(100)), `${"😀".repeat(60)}…`);
  assert.equal(titleOf("\n\n"), "");
});

test("what is exported comes back, under new ids", () => {
  const { conversation, question } = talk();
  append(conversation, question.id, "assistant", "uno");
  const [back] = fromJson(toJson([conversation]));
  assert.deepEqual(path(back).map((node) => node.content), ["one", "uno"]);
  assert.equal(back.system, "Be brief.");
  const old = new Set([conversation.id, ...conversation.nodes.map((node) => node.id)]);
  assert.ok([back.id, ...back.nodes.map((node) => node.id)].every((id) => !old.has(id)));
  const names = { untitled: "New", system: "System", user: "You", assistant: "dots" };
  assert.equal(toMarkdown(conversation, names), "# one\n\n## System\n\nBe brief.\n\n## You\n\none\n\n## dots\n\nuno\n");
});

test("a bad file is refused with its field, what was expected and what was found", () => {
  const file = (conversation) => JSON.stringify({ format: "dots.chat", version: 1, conversations: [conversation] });
  const node = { id: "a", parent: null, role: "user", content: "" };
  const cases = [
    ["nonsense", /^expected JSON/],
    ["null", /^expected an object, found null/],
    ['{"format": "other"}', /^format: expected "dots.chat", found "other"/],
    ['{"format": "dots.chat", "version": 1}', /^conversations: expected an array, found nothing/],
    [file(null), /^conversations\[0\]: expected an object, found null/],
    [file({ id: "x", nodes: {} }), /^conversations\[0\].nodes: expected an array, found an object/],
    [file({ id: "x", nodes: [node, node] }), /nodes\[1\].id: expected one that no other message has, found "a"/],
    [file({ id: "x", nodes: [{ ...node, parent: "a" }] }), /nodes\[0\].parent: expected the id of a message before, found "a"/],
    [file({ id: "x", nodes: [{ ...node, role: "tool" }] }), /nodes\[0\].role: expected "user" or "assistant", found "tool"/],
    [file({ id: "x", nodes: [{ ...node, content: 7 }] }), /nodes\[0\].content: expected a text, found a number/],
    [file({ id: "__proto__", nodes: [] }), /conversations\[0\].id: expected letters and digits, found "__proto__"/],
    ['[{"role": "user", "content": 1}]', /^\[0\].content: expected a text, found a number/],
  ];
  for (const [text, message] of cases) assert.throws(() => fromJson(text), { message }, text);
});

test("file names are of what every system allows", () => {
  assert.equal(fileName("../a: b/c?", "md"), "a-b-c.md");
  assert.equal(fileName("표로 비교", "json"), "표로-비교.json");
  assert.equal(fileName("…", "md"), "dots-chat.md");
});

/** A `Storage` of so many characters. */
class Small {
  #map = new Map();
  constructor(room) {
    this.room = room;
  }
  get length() {
    return this.#map.size;
  }
  key(i) {
    return [...this.#map.keys()][i];
  }
  getItem(key) {
    return this.#map.get(key) ?? null;
  }
  removeItem(key) {
    this.#map.delete(key);
  }
  setItem(key, value) {
    let taken = key.length + value.length;
    for (const [other, text] of this.#map) taken += other === key ? 0 : other.length + text.length;
    if (taken > this.room) throw new Error("full");
    this.#map.set(key, value);
  }
}

test("a full storage keeps what it had, and the rest stays in memory until there is room", () => {
  const [first, second] = [talk().conversation, talk().conversation];
  append(second, null, "user", "x".repeat(1500));
  // For either of them, not for both.
  const storage = new Small(JSON.stringify(second).length + 100);
  const store = new Store(storage);
  store.save(first);
  store.save(second);
  assert.ok(store.isUnsaved(second.id) && !store.isUnsaved(first.id));
  assert.equal(store.get(second.id), second);
  assert.equal(new Store(storage).all().length, 1);
  store.remove(first.id);
  assert.ok(!store.hasUnsaved);
  assert.equal(new Store(storage).get(second.id).nodes.length, 3);
});

test("what someone else wrote is not shown and not touched", () => {
  const storage = new Small(10_000);
  for (const text of ["nonsense", "{}", '{"id": "b", "nodes": []}', "[]"]) {
    storage.setItem("dots.chat.a", text);
    assert.deepEqual(new Store(storage).all(), []);
    assert.equal(storage.getItem("dots.chat.a"), text);
  }
});

test("without any storage all stays in memory", () => {
  const store = new Store(null);
  const { conversation } = talk();
  store.save(conversation);
  assert.ok(!store.isKept && store.isUnsaved(conversation.id) && store.get(conversation.id) === conversation);
  store.set("theme", "dark");
  assert.equal(store.setting("theme"), undefined);
});

test("code is coloured across lines, and never changed", () => {
  const python = languageOf("Python");
  let open = null;
  const kinds = ['x = """a', "b # no comment", 'c""" # yes', "def f(): return 0x1F"].map((line) => {
    const read = highlight(line, python, open);
    open = read.open;
    assert.equal(read.pieces.map(([, text]) => text).join(""), line);
    return read.pieces.filter(([kind]) => kind).map(([kind, text]) => `${kind}:${text.trim()}`);
  });
  assert.deepEqual(kinds, [['string:"""a'], ["string:b # no comment"], ['string:c"""', "comment:# yes"], ["keyword:def", "keyword:return", "number:0x1F"]]);
  assert.equal(languageOf("constructor"), null);
  const long = "a".repeat(5000);
  assert.deepEqual(highlight(long, python, null).pieces, [[null, long]]);
  for (const name of ["rust", "c", "js", "bash", "sql", "json", "html", "css", "yaml"]) {
    for (const line of ["it's \"so\" `x` // # -- <!-- /* 12.5e3 가나다 😀 \\", "'", '"\\', "$# ${x#y}"]) {
      assert.equal(highlight(line, languageOf(name), null).pieces.map(([, text]) => text).join(""), line, name);
    }
  }
});

test("stop texts may hold line breaks", () => {
  assert.deepEqual(stopTexts("END\n\n\\n\\n\na\\\\n"), ["END", "\n\n", "a\\n"]);
  assert.deepEqual(stopTexts(undefined), []);
});

test("the page speaks the first language that it knows", () => {
  assert.equal(bestLanguage(["fr-FR", "ko-KR", "en"]), "ko");
  assert.equal(bestLanguage(["zh-Hant-TW"]), "zh");
  assert.equal(bestLanguage(["constructor", "de"]), "en");
  assert.equal(bestLanguage([]), "en");
});

test("an answer is said in sentences, each once", () => {
  const said = [];
  globalThis.document = { createElement: () => ({ set textContent(text) { said.push(text); } }) };
  const speech = new Speech({ append() {}, childElementCount: 0 });
  const text = "The first sentence is long enough to be said. A **second** one, with a [link](https://x.org), follows it.\n\n```py\na = 1\n```\nEnd";
  speech.begin();
  for (const character of text) speech.push(character);
  speech.finish();
  assert.deepEqual(said.slice(1, -1), [
    "The first sentence is long enough to be said.",
    "A second one, with a link, follows it.",
    "A block of code, 1 lines.",
    "End",
  ]);
  said.length = 0;
  speech.begin();
  speech.push("x".repeat(100_000));
  assert.equal(said.length, 2, "a text without sentences is said, too");
});
