// Which curves there are, and what they are made of.

import { make } from "./dom.js";
import { label, say } from "./words.js";
import { brief, smooth } from "./scale.js";
import { layerColour, runColour } from "./colour.js";
import { Plot } from "./plot.js";
import { HeatMap, drawLegend } from "./heat.js";
import { flops, lastOf } from "./cards.js";

const percent = (value, digits = 3) => (value === null ? "–" : `${brief(value * 100, digits)} %`);

/** Curves with one line a run: the title's words, the series, and how it is drawn. */
const CURVES = [
  ["gradient_norm", "gradient_norm", { log: true }],
  ["weight_norm", "weight_norm", {}],
  ["learning_rate", "learning_rate", {}],
  ["tokens_per_second", "tokens_per_second", { from: 0 }],
  ["share", "share", { format: percent, from: 0 }],
  ["sequence_loss", "sequence_loss", {}],
  ["batch_tokens", "batch_tokens", { from: 0 }],
];

const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];

export class Charts {
  #view;
  #loss;
  #validation;
  #curves;
  #formula = make("p", { className: "note" });
  #experts = [];

  constructor(place, expertsPlace, view) {
    this.#view = view;
    this.place = expertsPlace;
    this.#loss = new Plot("loss_title", view, { wide: true });
    this.#validation = new Plot("validation", view, { legend: true });
    this.#curves = CURVES.map(([title, series, options]) => ({ series, plot: new Plot(title, view, options) }));
    this.#curves.find(({ series }) => series === "share").plot.element.append(this.#formula);
    place.append(this.#loss.element, this.#validation.element, ...this.#curves.map(({ plot }) => plot.element));
  }

  /** `parts` are the runs' numbers for what is in sight, `runs` the whole ones. */
  show(runs, parts, { half, log }) {
    const { axis } = this.#view;
    const line = (index, name, half) => {
      const { steps } = parts[index];
      const band = name === "share" ? shareOf(steps) : steps.series[name];
      if (!band) return { name: runs[index].name, colour: runColour(index), x: [], y: [] };
      const one = { name: runs[index].name, colour: runColour(index), x: steps[axis], y: smooth(band.mean, steps.step, half) };
      if (half) one.raw = band.mean;
      if (steps.width > 1) [one.low, one.high] = [band.min, band.max];
      return one;
    };
    this.#loss.show(runs.map((_, index) => line(index, "loss", half)), log);
    for (const { series, plot } of this.#curves) plot.show(runs.map((_, index) => line(index, series, series === "gradient_norm" ? half : 0)));
    this.#validation.show(
      runs.flatMap((run, index) =>
        Object.entries(parts[index].validation).map(([domain, part], at) => ({
          name: runs.length > 1 ? `${run.name}: ${domain}` : domain,
          colour: runColour(runs.length > 1 ? index : at),
          dash: runs.length > 1 ? DASHES[at % DASHES.length] : [],
          dots: true,
          x: part[axis],
          y: part.loss.mean,
        })),
      ),
      log,
    );
    const shares = runs.flatMap((run) => formula(run, runs.length > 1 ? `${run.name}: ` : ""));
    this.#formula.replaceChildren(...(shares.length > 0 ? [say("formula"), " ", shares.join(" ")] : []));
    this.#showExperts(runs, parts);
  }

  #showExperts(runs, parts) {
    runs.forEach((run, index) => {
      const routers = parts[index].routers;
      if (!routers) return;
      const shape = routers.layers.join();
      if (this.#experts[index]?.shape !== shape) {
        this.#experts[index]?.element.remove();
        this.#experts[index] = new Experts(this.#view, routers.layers, shape, index);
        this.place.append(this.#experts[index].element);
      }
      this.#experts[index].show(routers, runs.length > 1 ? run.name : null);
    });
  }
}

function shareOf(steps) {
  const [done, peak] = [steps.series.flops_per_second, steps.series.peak_flops_per_second];
  if (!done || !peak) return null;
  const over = (list) => list.map((value, index) => (value === null || !peak.mean[index] ? null : value / peak.mean[index]));
  return { mean: over(done.mean), min: over(done.min), max: over(done.max) };
}

function formula(run, before) {
  const [done, peak] = [lastOf(run, "flops_per_second"), lastOf(run, "peak_flops_per_second")];
  if (done === null || !peak) return [];
  return [`${before}${flops(done)} ÷ ${flops(peak)} = ${percent(done / peak)}.`];
}

/** A run's routers: curves with a line a layer, and heat maps. */
class Experts {
  element = make("section", { className: "experts" });
  #title = make("h2", {});
  #plots;
  #maps;
  #kind = make("select", {});
  #legend = make("canvas", { role: "img" });
  #maximum = 0;
  #routers = null;

  constructor(view, layers, shape, run) {
    this.shape = shape;
    this.view = view;
    this.#plots = [
      ["ratio", new Plot("ratio", view, { legend: true, from: 1, run })],
      ["entropy", new Plot("entropy", view, { legend: true, run })],
      ["dead", new Plot("dead_title", view, { legend: true, from: 0, run })],
    ];
    this.#maps = layers.map((layer) => new HeatMap(view, `${layer}`, run));
    for (const kind of ["load", "bias"]) this.#kind.append(label(make("option", { value: kind }), "text", `map_${kind}`));
    this.#kind.id = `map-${run}`;
    this.#kind.addEventListener("change", () => this.#showMaps());
    const choice = make("label", {}, label(make("span", {}), "text", "map"), " ", this.#kind);
    this.element.append(
      this.#title,
      make("div", { className: "expert-charts" }, ...this.#plots.map(([, plot]) => plot.element)),
      make("div", { className: "scale-bar" }, choice, this.#legend, label(make("span", { className: "hint" }), "text", "map_hint")),
      make("div", { className: "maps" }, ...this.#maps.map((map) => map.element)),
    );
  }

  show(routers, name) {
    const { axis } = this.view;
    this.#routers = routers;
    this.#title.textContent = name === null ? say("experts") : `${say("experts")}: ${name}`;
    for (const [key, plot] of this.#plots) {
      plot.show(
        routers.layers.map((layer, index) => ({
          name: say("layer", { layer }),
          colour: layerColour(index, routers.layers.length),
          x: routers.curves[axis],
          y: routers.curves[key][index],
        })),
      );
    }
    this.#showMaps();
  }

  #showMaps() {
    const { layers, experts, cells } = this.#routers;
    const kind = this.#kind.value;
    const columns = kind === "load" ? cells.loads : cells.biases;
    this.#maximum = 0;
    if (kind === "bias") for (const column of columns) for (const value of column) if (Math.abs(value) > this.#maximum) this.#maximum = Math.abs(value);
    drawLegend(this.#legend, kind, this.#maximum);
    this.#legend.setAttribute("aria-label", say(`legend_${kind}`));
    this.#maps.forEach((map, layer) => {
      map.name = () => say("map_title", { layer: layers[layer], kind: say(`map_${kind}`) });
      map.heading.textContent = say("layer", { layer: layers[layer] });
      map.show({ steps: cells[this.view.axis], columns, layer, experts, kind, most: this.#maximum });
    });
  }
}
