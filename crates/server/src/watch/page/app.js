// The page, put together.

import { make } from "./dom.js";
import { LANGUAGES, bestLanguage, say, speak } from "./words.js";
import { nearest } from "./scale.js";
import { Feed } from "./feed.js";
import { Card } from "./cards.js";
import { Charts } from "./charts.js";

/** Steps after which a measurement counts half in a smoothed curve. */
const HALVES = [0, 5, 20, 100, 500, 2000];

/** Between the last change of the view and the question for its details, in milliseconds. */
const PATIENCE_MS = 150;

const at = (id) => document.getElementById(id);

function stored(name) {
  try {
    return JSON.parse(localStorage.getItem(`dots.${name}`));
  } catch {
    return null;
  }
}

function keep(name, value) {
  try {
    localStorage.setItem(`dots.${name}`, JSON.stringify(value));
  } catch {
    // It is as chosen until the page is left.
  }
}

/** What all pictures share. */
const view = {
  axis: "step",
  /** The two ends in sight, or null for the whole. */
  zoomed: null,
  cursor: null,
  pointer: null,
  drag: null,
  active: null,
  pictures: new Set(),
  marks: { phases: [], checkpoints: [], pauses: [] },
  range() {
    if (this.zoomed) return this.zoomed;
    let [low, high] = [Infinity, -Infinity];
    for (const run of feed.runs) {
      const list = run.steps[this.axis];
      if (list.length === 0) continue;
      // The first bucket's step is its last one; the first phase begins with the run.
      low = Math.min(low, list[0], run.head.phases?.[0]?.[this.axis] ?? Infinity);
      high = Math.max(high, list.at(-1));
    }
    return low < high ? [low, high] : low === high ? [low - 1, low + 1] : [0, 1];
  },
  zoom(from, to) {
    if (from === null) {
      this.zoomed = null;
    } else {
      [from, to] = [Math.min(from, to), Math.max(from, to)];
      this.zoomed = null;
      const [low, high] = this.range();
      [from, to] = [Math.max(low, from), Math.min(high, to)];
      const isAll = from <= low && to >= high;
      // Closer than two steps there is nothing to see.
      const least = this.axis === "step" ? 2 : (high - low) / 1e6;
      if (!isAll && to - from >= least) this.zoomed = [from, to];
    }
    at("whole").disabled = this.zoomed === null;
    details = [];
    draw();
    askForDetails();
  },
  pointChanged() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      for (const picture of this.pictures) picture.point();
    });
  },
};

/** Of each run, what is in sight as finely as the server has it. */
let details = [];
let asking = 0;
let isDrawing = false;
const cards = [];

const feed = new Feed(
  () => {
    draw();
    // The end that is in sight may have grown.
    if (view.zoomed && feed.runs.some((run) => run.steps[view.axis].at(-1) <= view.zoomed[1])) askForDetails();
  },
  (isOpen) => {
    at("line").textContent = isOpen ? "" : say("line_lost");
  },
);

function askForDetails() {
  const question = ++asking;
  if (!view.zoomed || feed.isReport) return;
  setTimeout(async () => {
    if (question !== asking || !view.zoomed) return;
    try {
      const found = await Promise.all(feed.runs.map((run, index) => feed.view(index, ...stepsOf(run, view.zoomed))));
      if (question !== asking) return;
      details = found;
      draw();
    } catch {
      // What is there is drawn already.
    }
  }, PATIENCE_MS);
}

/** The steps at the two ends. */
function stepsOf(run, ends) {
  if (view.axis === "step") return [Math.floor(ends[0]), Math.ceil(ends[1])];
  return ends.map((end) => run.steps.step[Math.max(0, nearest(run.steps.tokens, end))] ?? 0);
}

function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    const { runs } = feed;
    while (cards.length < runs.length) {
      cards.push(new Card());
      at("cards").append(cards.at(-1).element);
    }
    cards.forEach((card, index) => runs[index].head.read && card.show(runs[index], index, feed.isReport));
    for (const kind of ["phases", "checkpoints", "pauses"]) {
      const named = (run, mark) => (runs.length > 1 ? `${run.name} ${mark.name}` : mark.name);
      view.marks[kind] = runs.flatMap((run, index) => (run.head[kind] ?? []).map((mark) => ({ ...mark, run: index, own: mark.name, name: named(run, mark), kind: say(`mark_${kind}`) })));
    }
    const parts = runs.map((run, index) => (view.zoomed && details[index]) || run);
    charts.show(runs, parts, { half: Number(at("smoothing").value), log: at("log").checked });
    document.title = runs.length ? `${runs.map((run) => run.name).join(", ")} · dots watch` : "dots watch";
  });
}

function fillSmoothing() {
  const place = at("smoothing");
  const value = place.value || "20";
  place.replaceChildren(...HALVES.map((half) => make("option", { value: String(half) }, half ? say("half", { steps: half }) : say("half_none"))));
  place.value = value;
}

const chosen = stored("language");
speak(Object.hasOwn(LANGUAGES, chosen ?? "") ? chosen : bestLanguage(navigator.languages ?? [navigator.language]));
at("language").value = document.documentElement.lang;
at("theme").value = document.documentElement.dataset.theme ?? "auto";
fillSmoothing();
at("app").hidden = false;
const charts = new Charts(at("charts"), at("experts"), view);

at("language").addEventListener("change", (event) => {
  keep("language", event.target.value);
  speak(event.target.value);
  fillSmoothing();
  draw();
});
at("theme").addEventListener("change", (event) => {
  const { value } = event.target;
  keep("theme", value === "auto" ? null : value);
  if (value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = value;
  draw();
});
at("axis").addEventListener("change", (event) => {
  view.axis = event.target.value;
  view.cursor = null;
  view.zoom(null);
});
for (const id of ["smoothing", "log"]) at(id).addEventListener("change", draw);
at("whole").addEventListener("click", () => view.zoom(null));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("resize", draw);

feed.start();
draw();
