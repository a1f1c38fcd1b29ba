// Heat maps: one layer's experts over the steps.

import { make } from "./dom.js";
import { say } from "./words.js";
import { brief, nearest } from "./scale.js";
import { heatColour, inks } from "./colour.js";
import { Picture } from "./plot.js";

/** Loads are coloured by their logarithm: a quarter of the mean to four times it. */
const DOUBLINGS = 2;

/** -1 to 1 for a load beside its mean. */
export function loadPlace(load) {
  return load > 0 ? Math.log2(load) / DOUBLINGS : -1;
}

export class HeatMap extends Picture {
  /** `title` names the layer. */
  constructor(view, title, run) {
    super(null, view, { title, run });
  }

  show({ steps, columns, layer, experts, kind, most }) {
    Object.assign(this, { steps, columns, layer, experts, kind, most });
    const context = this.begin();
    this.drawX(context);
    const { soft } = inks();
    const height = this.floor - this.ceiling;
    if (columns.length && experts) {
      const image = make("canvas", { width: columns.length, height: experts });
      const pixels = new ImageData(columns.length, experts);
      columns.forEach((column, x) => {
        for (let expert = 0; expert < experts; expert++) {
          const value = column[layer * experts + expert];
          if (Number.isNaN(value)) continue;
          const rgb = heatColour(kind === "load" ? loadPlace(value) : most ? value / most : 0);
          pixels.data.set([...rgb, 255], 4 * (expert * columns.length + x));
        }
      });
      image.getContext("2d").putImageData(pixels, 0, 0);
      context.save();
      context.beginPath();
      context.rect(this.x.start, this.ceiling, this.x.end - this.x.start, height);
      context.clip();
      context.imageSmoothingEnabled = false;
      for (let x = 0; x < columns.length; x++) {
        // A column ends at its step, and reaches from the one before.
        const from = this.x.at(x > 0 ? steps[x - 1] : 2 * steps[0] - (steps[1] ?? steps[0] + 1));
        const to = this.x.at(steps[x]);
        if (to < this.x.start || from > this.x.end) continue;
        context.drawImage(image, x, 0, 1, experts, Math.floor(from), this.ceiling, Math.ceil(to) - Math.floor(from), height);
      }
      context.restore();
    }
    context.fillStyle = soft;
    context.textAlign = "right";
    context.textBaseline = "middle";
    const every = Math.max(1, 2 ** Math.ceil(Math.log2((experts * 24) / height)));
    for (let expert = 0; expert < experts; expert += every) {
      context.fillText(String(expert), this.x.start - 6, this.ceiling + ((expert + 0.5) * height) / experts);
    }
    this.drawMarks(context);
    this.point();
  }

  find(cursor, pointerY) {
    const index = nearest(this.steps ?? [], cursor);
    if (index < 0) return [];
    const column = this.columns[index].subarray(this.layer * this.experts, (this.layer + 1) * this.experts);
    const row = (expert) => {
      const value = column[expert];
      const [red, green, blue] = heatColour(this.kind === "load" ? loadPlace(value) : this.most ? value / this.most : 0);
      const text = this.kind === "load" ? `${brief(value)} ×` : brief(value);
      return { name: say("expert", { expert }), text, colour: `rgb(${red} ${green} ${blue})` };
    };
    if (this.view.active === this && pointerY !== undefined) {
      const expert = Math.floor(((pointerY - this.ceiling) / (this.floor - this.ceiling)) * this.experts);
      if (expert >= 0 && expert < this.experts) return [row(expert)];
    }
    // Without a pointer: the ends.
    let [least, greatest] = [0, 0];
    column.forEach((value, expert) => {
      if (value < column[least]) least = expert;
      if (value > column[greatest]) greatest = expert;
    });
    return [row(greatest), row(least)];
  }
}

/** What the colours mean. */
export function drawLegend(canvas, kind, most) {
  const { soft } = inks();
  const pixels = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth || 320, canvas.clientHeight || 36];
  canvas.width = width * pixels;
  canvas.height = height * pixels;
  const context = canvas.getContext("2d");
  context.setTransform(pixels, 0, 0, pixels, 0, 0);
  context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  for (let x = 12; x < width - 12; x++) {
    const [red, green, blue] = heatColour(((x - 12) / (width - 25)) * 2 - 1);
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    context.fillRect(x, 2, 1, 12);
  }
  context.fillStyle = soft;
  context.textBaseline = "top";
  context.textAlign = "center";
  const names = kind === "load" ? ["≤¼×", "½×", "1×", "2×", "≥4×"] : [-1, -0.5, 0, 0.5, 1].map((share) => brief(share * most, 2));
  names.forEach((name, index) => {
    context.textAlign = index === 0 ? "left" : index === 4 ? "right" : "center";
    context.fillText(name, [0, 12 + (width - 25) / 4, width / 2, 12 + ((width - 25) * 3) / 4, width][index], 18);
  });
}
