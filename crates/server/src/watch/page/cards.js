// One card a run: how it stands, where it came from.

import { make } from "./dom.js";
import { number, say } from "./words.js";
import { brief } from "./scale.js";
import { runColour } from "./colour.js";

/** The last measurement of a series. */
export function lastOf(run, name) {
  const list = run.steps.series[name]?.mean ?? [];
  for (let index = list.length - 1; index >= 0; index--) if (list[index] !== null) return list[index];
  return null;
}

/** FLOP/s in words. */
export function flops(value) {
  return value === null ? "–" : `${brief(value)}FLOP/s`.replace(/(\d)([TGMK]?)FLOP/, "$1 $2FLOP");
}

function duration(seconds) {
  if (seconds < 90) return say("seconds", { count: Math.round(seconds) });
  if (seconds < 5400) return say("minutes", { count: Math.round(seconds / 60) });
  return say("hours", { count: Math.round(seconds / 3600) });
}

export class Card {
  #details = make("details", { hidden: true });
  #summary = make("summary", {});
  #text = make("pre", { tabIndex: 0 });
  #head = make("h3", {});
  #facts = make("dl", { className: "facts" });
  #wrong = make("div", {});
  element = make("article", { className: "card" });

  constructor() {
    this.#details.append(this.#summary, this.#text);
    this.element.append(this.#head, this.#facts, this.#wrong, this.#details);
  }

  show(run, index, isReport) {
    const { head } = run;
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = runColour(index);
    const state = make("span", { className: `state ${head.state}` }, say(`state_${head.state}`));
    const age = head.age === null || isReport ? "" : say("age", { age: duration(head.age + (Date.now() - run.told) / 1000) });
    this.#head.replaceChildren(swatch, make("span", {}, run.name), state, make("span", { className: "hint" }, age));
    const [speed, peak] = [lastOf(run, "flops_per_second"), lastOf(run, "peak_flops_per_second")];
    const facts = [
      ["step", head.step === undefined ? "–" : number(head.step)],
      ["tokens", brief(head.tokens, 4)],
      ["loss", brief(lastOf(run, "loss"), 4)],
      ["phase", head.phase ?? "–"],
      ["tokens_per_second", brief(lastOf(run, "tokens_per_second"), 4)],
      ["share", speed !== null && peak ? `${((100 * speed) / peak).toFixed(1)} %` : "–"],
      ["checkpoint", head.checkpoints?.at(-1)?.name ?? "–"],
    ];
    if (head.dead) facts.push(["dead", number(head.dead_count)]);
    this.#facts.replaceChildren(...facts.map(([key, value]) => make("div", {}, make("dt", {}, say(key)), make("dd", {}, value))));
    const wrong = [];
    if (head.error) wrong.push(make("p", { className: "wrong" }, say("stopped_at", { step: head.error.step }), " ", head.error.message));
    if (head.trouble) wrong.push(make("p", { className: "wrong" }, head.trouble));
    if (head.bad_lines) {
      wrong.push(make("p", { className: "note" }, say("bad_lines", { count: head.bad_lines, line: head.first_bad.line }), " ", head.first_bad.reason));
    }
    const [read, bytes] = head.read;
    if (bytes - read > 1 << 20) wrong.push(make("p", { className: "note" }, say("reading", { share: Math.floor((100 * read) / bytes) })));
    if (head.dead?.length) {
      const names = head.dead.slice(0, 8).map(([layer, expert, step]) => say("dead_one", { layer, expert, step }));
      if (head.dead_count > 8) names.push(say("more", { count: head.dead_count - 8 }));
      wrong.push(make("p", { className: "note" }, `${say("dead_now", { lines: head.dead_after })} ${names.join("; ")}`));
    }
    this.#wrong.replaceChildren(...wrong);
    this.#lineage(run);
  }

  #lineage(run) {
    const parts = [];
    if (run.lineage) parts.push(`run.json\n${JSON.stringify(run.lineage, null, 2)}`);
    if (run.recipe) parts.push(`recipe.toml\n${run.recipe}`);
    this.#details.hidden = parts.length === 0;
    const parent = run.lineage?.parent;
    const from = parent === undefined || parent === null ? "" : `: ${typeof parent === "string" ? parent : (parent.run ?? parent.name ?? JSON.stringify(parent))}`;
    this.#summary.textContent = say("lineage") + from;
    const text = parts.join("\n\n");
    if (this.#text.textContent !== text) this.#text.textContent = text;
    this.#text.setAttribute("aria-label", say("lineage"));
  }
}
