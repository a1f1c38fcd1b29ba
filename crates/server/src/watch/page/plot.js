// Pictures over the steps of a run: what they share (axes, the line that is pointed at, zooming), and curves.

import { make } from "./dom.js";
import { label, say } from "./words.js";
import { Scale, brief, extent, nearest } from "./scale.js";
import { inks } from "./colour.js";

const LEFT = 52;
const RIGHT = 12;
const TOP = 18;
const BOTTOM = 24;
/** A drag shorter than this is a slip, in pixels. */
const SLIP = 6;
/** Points named in the box beside the pointer. */
const NAMED = 8;

/** A canvas with axes that can be pointed at, dragged over and walked along. `view` is what all pictures share. */
export class Picture {
  constructor(titleKey, view, { wide = false, title, run } = {}) {
    this.view = view;
    /** Whose marks it bears; everybody's where it is undefined. */
    this.run = run;
    this.canvas = make("canvas", { role: "slider", tabIndex: 0 });
    this.over = make("canvas", { "aria-hidden": "true" });
    this.tip = make("div", { className: "tip", hidden: true });
    this.picture = make("div", { className: "picture" }, this.canvas, this.over, this.tip);
    this.heading = make("h3", {});
    if (titleKey) label(this.heading, "text", titleKey);
    else this.heading.textContent = title;
    this.name = () => (titleKey ? say(titleKey) : title);
    this.element = make("section", { className: `chart${wide ? " wide" : ""}` }, this.heading, this.picture);
    this.#listen();
    view.pictures.add(this);
  }

  /** The canvas ready to be drawn on, in CSS pixels. */
  begin() {
    const { clientWidth: width, clientHeight: height } = this.picture;
    const pixels = devicePixelRatio || 1;
    for (const canvas of [this.canvas, this.over]) {
      canvas.width = Math.max(1, Math.round(width * pixels));
      canvas.height = Math.max(1, Math.round(height * pixels));
      canvas.getContext("2d").setTransform(pixels, 0, 0, pixels, 0, 0);
    }
    const context = this.canvas.getContext("2d");
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const [from, to] = this.view.range();
    this.x = new Scale(from, to, LEFT, Math.max(LEFT + 10, width - RIGHT));
    Object.assign(this, { width, height, floor: height - BOTTOM, ceiling: TOP });
    this.canvas.setAttribute("aria-label", this.name());
    this.canvas.setAttribute("aria-valuemin", String(Math.round(from)));
    this.canvas.setAttribute("aria-valuemax", String(Math.round(to)));
    this.canvas.setAttribute("aria-valuenow", String(Math.round(this.view.cursor ?? to)));
    return context;
  }

  drawX(context) {
    const { soft, line } = inks();
    context.fillStyle = soft;
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const tick of this.x.ticks(Math.max(2, (this.width - LEFT) / 90))) {
      const place = Math.round(this.x.at(tick)) + 0.5;
      context.strokeStyle = line;
      stroke(context, [[place, this.ceiling], [place, this.floor]]);
      context.fillText(brief(tick, 4), Math.min(place, this.width - 16), this.floor + 6);
    }
  }

  /** Phases above, checkpoints below, and where the run stood still. */
  drawMarks(context) {
    const { ink, soft, edge, high } = inks();
    const { marks, axis } = this.view;
    const inside = (mark) => this.#bears(mark) && mark[axis] >= this.x.low && mark[axis] <= this.x.high;
    const name = (mark) => (this.run === undefined ? mark.name : mark.own);
    context.textAlign = "left";
    context.textBaseline = "top";
    let free = 0;
    for (const mark of marks.phases.filter(inside)) {
      const place = Math.round(this.x.at(mark[axis])) + 0.5;
      context.strokeStyle = edge;
      context.setLineDash([2, 3]);
      if (place > this.x.start + 2) stroke(context, [[place, 4], [place, this.floor]]);
      context.setLineDash([]);
      if (place < free) continue;
      context.fillStyle = soft;
      context.fillText(name(mark), place + 4, 3);
      free = place + context.measureText(name(mark)).width + 12;
    }
    for (const mark of marks.pauses.filter(inside)) {
      const place = Math.round(this.x.at(mark[axis])) + 0.5;
      context.strokeStyle = high;
      context.setLineDash([6, 3]);
      stroke(context, [[place, this.ceiling], [place, this.floor]]);
      context.setLineDash([]);
    }
    context.fillStyle = ink;
    for (const mark of marks.checkpoints.filter(inside)) {
      const place = this.x.at(mark[axis]);
      context.beginPath();
      context.moveTo(place, this.floor - 5);
      context.lineTo(place - 3, this.floor);
      context.lineTo(place + 3, this.floor);
      context.fill();
    }
  }

  #bears(mark) {
    return this.run === undefined || this.run === mark.run;
  }

  /** The line that is pointed at, and what lies there. */
  point() {
    const context = this.over.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    const { cursor, drag, axis } = this.view;
    const { ink, edge } = inks();
    if (drag && this.x) {
      context.fillStyle = edge;
      context.globalAlpha = 0.25;
      const [from, to] = drag.map((value) => this.x.at(value)).sort((a, b) => a - b);
      context.fillRect(from, this.ceiling, to - from, this.floor - this.ceiling);
      context.globalAlpha = 1;
    }
    this.tip.hidden = true;
    if (cursor === null || !this.x || cursor < this.x.low || cursor > this.x.high) return;
    const found = this.find(cursor, this.view.pointer?.y);
    const place = Math.round(this.x.at(cursor)) + 0.5;
    context.strokeStyle = ink;
    context.globalAlpha = 0.5;
    stroke(context, [[place, this.ceiling], [place, this.floor]]);
    context.globalAlpha = 1;
    for (const { x, y, colour } of found) {
      if (y === undefined) continue;
      context.fillStyle = colour;
      context.beginPath();
      context.arc(x, y, 3, 0, 2 * Math.PI);
      context.fill();
    }
    const where = `${say(axis === "step" ? "step" : "tokens")} ${brief(Math.round(cursor), 6)}`;
    this.canvas.setAttribute("aria-valuenow", String(Math.round(cursor)));
    this.canvas.setAttribute("aria-valuetext", [where, ...found.map(({ name, text }) => `${name} ${text}`)].join(", "));
    if (this.view.active !== this) return;
    const rows = found.slice(0, NAMED).map(({ name, text, colour }) => {
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = colour;
      return make("div", { className: "row" }, swatch, make("span", {}, name), make("b", {}, text));
    });
    if (found.length > NAMED) rows.push(make("div", {}, say("more", { count: found.length - NAMED })));
    const near = [...this.view.marks.phases, ...this.view.marks.checkpoints, ...this.view.marks.pauses].filter(
      (mark) => this.#bears(mark) && Math.abs(this.x.at(mark[axis]) - place) < 4,
    );
    this.tip.replaceChildren(make("div", {}, where), ...rows, ...near.slice(-3).map((mark) => make("div", {}, `${mark.kind}: ${mark.name}`)));
    this.tip.hidden = false;
    const onLeft = place > this.width / 2;
    this.tip.style.left = onLeft ? "" : `${place + 12}px`;
    this.tip.style.right = onLeft ? `${this.width - place + 12}px` : "";
  }

  #listen() {
    const { canvas, view } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      view.pointer = { y: event.clientY - box.top };
      return this.x.back(Math.max(this.x.start, Math.min(this.x.end, event.clientX - box.left)));
    };
    let begun = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.x || event.button !== 0) return;
      begun = { place: event.clientX, value: at(event) };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.x) return;
      view.active = this;
      view.cursor = at(event);
      view.drag = begun && Math.abs(event.clientX - begun.place) > SLIP ? [begun.value, view.cursor] : null;
      view.pointChanged();
    });
    canvas.addEventListener("pointerup", () => {
      const { drag } = view;
      begun = view.drag = null;
      if (drag) view.zoom(...drag);
    });
    canvas.addEventListener("pointercancel", () => (begun = view.drag = null));
    canvas.addEventListener("pointerleave", () => {
      if (begun) return;
      view.cursor = null;
      view.pointChanged();
    });
    canvas.addEventListener("dblclick", () => view.zoom(null));
    canvas.addEventListener("blur", () => {
      view.cursor = null;
      view.pointChanged();
    });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const { view } = this;
    if (!this.x || event.ctrlKey || event.metaKey || event.altKey) return;
    const [from, to] = view.range();
    const span = to - from;
    const here = view.cursor ?? from + span / 2;
    const move = (value) => {
      view.active = this;
      view.pointer = null;
      view.cursor = Math.max(from, Math.min(to, value));
      view.pointChanged();
    };
    const step = this.step(here, event.shiftKey ? span / 20 : span / 200);
    const keys = {
      ArrowLeft: () => move(here - step),
      ArrowRight: () => move(here + step),
      Home: () => move(from),
      End: () => move(to),
      "+": () => view.zoom(here - span / 4, here + span / 4),
      "=": () => view.zoom(here - span / 4, here + span / 4),
      "-": () => view.zoom(here - span, here + span),
      0: () => view.zoom(null),
      Escape: () => view.zoom(null),
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  }

  step(_, least) {
    return least;
  }
}

/** Curves. Each: name, colour, dash, x, y, and faint behind it low, high and raw. */
export class Plot extends Picture {
  series = [];
  constructor(titleKey, view, options = {}) {
    super(titleKey, view, options);
    this.options = options;
    this.legend = make("ul", { className: "legend" });
    this.empty = make("p", { className: "empty", hidden: true });
    label(this.empty, "text", "no_data");
    this.picture.append(this.empty);
    this.element.append(this.legend);
  }

  show(series, log = this.options.log) {
    this.series = series;
    const format = this.options.format ?? brief;
    const context = this.begin();
    const shown = this.series.map((one) => cut(one, this.x.low, this.x.high));
    const behind = shown.flatMap(({ one, from, to }) => [one.y, one.raw].filter(Boolean).map((list) => list.slice(from, to)));
    let [low, high] = extent(behind, log);
    // What begins at a number has none below it.
    if (this.options.from !== undefined) [low, high] = [this.options.from, high > this.options.from ? high : this.options.from + 1];
    if (!log) [low, high] = [low === this.options.from ? low : low - (high - low) * 0.05, high + (high - low) * 0.05];
    this.y = new Scale(low, high, this.floor, this.ceiling, log);
    const { soft, line } = inks();
    context.textAlign = "right";
    context.textBaseline = "middle";
    const ticks = this.y.ticks((this.floor - this.ceiling) / 40);
    // As many digits as tell neighbours apart.
    let digits = 3;
    while (digits < 8 && new Set(ticks.map((tick) => format(tick, digits))).size < ticks.length) digits++;
    for (const tick of ticks) {
      const place = Math.round(this.y.at(tick)) + 0.5;
      context.strokeStyle = line;
      stroke(context, [[this.x.start, place], [this.x.end, place]]);
      context.fillStyle = soft;
      context.fillText(format(tick, digits), this.x.start - 6, place);
    }
    this.drawX(context);
    this.drawMarks(context);
    context.save();
    context.beginPath();
    context.rect(this.x.start, this.ceiling, this.x.end - this.x.start, this.floor - this.ceiling + 1);
    context.clip();
    shown.forEach((part) => this.#band(context, part));
    shown.forEach((part) => this.#line(context, part));
    context.restore();
    this.empty.hidden = this.series.some((one) => one.y.some((value) => value !== null));
    const legend = this.series.length > 1 || this.options.legend ? this.series : [];
    this.legend.replaceChildren(
      ...legend.map(({ name, colour, dash }) => {
        const swatch = make("span", { className: "swatch" });
        const gap = dash?.length ? `repeating-linear-gradient(90deg, ${colour} 0 ${dash[0]}px, transparent 0 ${dash[0] + dash[1]}px)` : colour;
        swatch.style.background = gap;
        return make("li", {}, swatch, name);
      }),
    );
    this.point();
  }

  #band(context, { one, from, to }) {
    context.fillStyle = one.colour;
    if (one.low && to - from > 1) {
      context.globalAlpha = 0.16;
      context.beginPath();
      const place = (list, index) => (list[index] === null || (this.y.log && list[index] <= 0) ? this.floor : this.y.at(list[index]));
      for (let index = from; index < to; index++) context.lineTo(this.x.at(one.x[index]), place(one.high, index));
      for (let index = to - 1; index >= from; index--) context.lineTo(this.x.at(one.x[index]), place(one.low, index));
      context.fill();
    }
    if (one.raw) {
      context.globalAlpha = 0.3;
      context.lineWidth = 1;
      this.#stroke(context, one, one.raw, from, to);
    }
    context.globalAlpha = 1;
  }

  #line(context, { one, from, to }) {
    context.lineWidth = this.series.length > 8 ? 1.2 : 1.7;
    context.setLineDash(one.dash ?? []);
    this.#stroke(context, one, one.y, from, to);
    context.setLineDash([]);
    if (!one.dots) return;
    context.fillStyle = one.colour;
    for (let index = from; index < to && to - from < 80; index++) {
      if (one.y[index] === null) continue;
      context.beginPath();
      context.arc(this.x.at(one.x[index]), this.y.at(one.y[index]), 2.2, 0, 2 * Math.PI);
      context.fill();
    }
  }

  #stroke(context, one, list, from, to) {
    context.strokeStyle = one.colour;
    context.lineJoin = "round";
    context.beginPath();
    let isOpen = false;
    for (let index = from; index < to; index++) {
      const value = list[index];
      if (value === null || (this.y.log && value <= 0)) {
        isOpen = false;
        continue;
      }
      const [x, y] = [this.x.at(one.x[index]), this.y.at(value)];
      if (isOpen) context.lineTo(x, y);
      else context.moveTo(x, y);
      isOpen = true;
    }
    context.stroke();
    context.lineWidth = 1;
  }

  find(cursor, pointerY) {
    const format = this.options.format ?? brief;
    const found = [];
    for (const one of this.series) {
      const index = nearest(one.x, cursor);
      if (index < 0 || one.y[index] === null || Math.abs(this.x.at(one.x[index]) - this.x.at(cursor)) > this.width / 4) continue;
      const raw = one.raw && one.raw[index] !== null ? ` (${format(one.raw[index])})` : "";
      found.push({ name: one.name, colour: one.colour, text: format(one.y[index]) + raw, x: this.x.at(one.x[index]), y: this.y.at(one.y[index]) });
    }
    if (found.length > NAMED && pointerY !== undefined) found.sort((a, b) => Math.abs(a.y - pointerY) - Math.abs(b.y - pointerY));
    return found;
  }

  /** At least to the next point. */
  step(here, least) {
    const list = this.series[0]?.x ?? [];
    const index = nearest(list, here);
    const next = index >= 0 ? Math.abs((list[index + 1] ?? list[index]) - list[index]) : 0;
    return Math.max(least, next);
  }
}

/** The part of a series that is in sight, and its neighbours. */
function cut(one, low, high) {
  let from = 0;
  let to = one.x.length;
  while (from < to && one.x[from] < low) from++;
  while (to > from && one.x[to - 1] > high) to--;
  return { one, from: Math.max(0, from - 1), to: Math.min(one.x.length, to + 1) };
}

export function stroke(context, points) {
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
}
