// What the server tells of the runs, put together: all at first, then what is new. A report has it in itself.

const SERIES_LISTS = ["mean", "min", "max"];

/** A run as it is known. */
function emptyRun() {
  return { name: "", head: {}, lineage: null, recipe: null, ...emptyParts() };
}

function emptyParts() {
  return { steps: { step: [], tokens: [], series: {} }, validation: {}, routers: null };
}

export class Feed {
  runs = [];
  /** Whether what is shown cannot change. */
  isReport = false;
  #changed;
  #lineChanged;

  constructor(changed, lineChanged) {
    this.#changed = changed;
    this.#lineChanged = lineChanged;
  }

  start() {
    const data = document.getElementById("data");
    if (data) {
      this.isReport = true;
      for (const news of JSON.parse(data.textContent)) this.#take(news);
      this.#changed();
      return;
    }
    const source = new EventSource("changes");
    source.onopen = () => {
      // The server tells all again.
      for (const run of this.runs) Object.assign(run, emptyParts());
      this.#lineChanged(true);
    };
    source.onerror = () => this.#lineChanged(false);
    source.onmessage = (event) => {
      this.#take(JSON.parse(event.data));
      this.#changed();
    };
  }

  /** A part of a run as finely as the server has it. */
  async view(index, from, to) {
    const answer = await fetch(`view/${index}/${from}/${to}`);
    if (!answer.ok) throw new Error(String(answer.status));
    const parts = emptyParts();
    merge(parts, await answer.json());
    return parts;
  }

  #take(news) {
    while (this.runs.length < news.runs) this.runs.push(emptyRun());
    const run = this.runs[news.run];
    if (news.anew) Object.assign(run, emptyParts());
    run.name = news.name;
    run.head = news.head;
    run.told = Date.now();
    if ("lineage" in news) ({ lineage: run.lineage, recipe: run.recipe } = news);
    merge(run, news);
  }
}

function merge(run, news) {
  const kept = join(run.steps, news.steps);
  for (const [name, band] of Object.entries(news.steps.series)) {
    run.steps.series[name] ??= { mean: [], min: [], max: [] };
    joinBand(run.steps.series[name], band, kept);
  }
  for (const [name, part] of Object.entries(news.validation)) {
    run.validation[name] ??= { step: [], tokens: [], loss: { mean: [], min: [], max: [] } };
    joinBand(run.validation[name].loss, part.loss, join(run.validation[name], part));
  }
  for (const name of Object.keys(run.validation)) if (!(name in news.validation)) delete run.validation[name];
  if (news.routers) mergeRouters(run, news.routers);
}

function mergeRouters(run, news) {
  const { layers, experts } = news;
  run.routers ??= {
    curves: { step: [], tokens: [], ratio: layers.map(() => []), entropy: layers.map(() => []), dead: layers.map(() => []) },
    cells: { step: [], tokens: [], loads: [], biases: [] },
  };
  Object.assign(run.routers, { layers, experts });
  const { curves, cells } = run.routers;
  let kept = join(curves, news.curves);
  for (const name of ["ratio", "entropy", "dead"]) {
    curves[name].forEach((curve, layer) => {
      curve.length = kept;
      for (const value of news.curves[name][layer]) curve.push(value);
    });
  }
  kept = join(cells, news.cells);
  for (const name of ["loads", "biases"]) {
    cells[name].length = kept;
    cells[name].push(...columns(news.cells[name], layers.length * experts));
  }
}

/** Replaces what is no more so by what is new; returns how many points were kept. */
function join(part, news) {
  let kept = 0;
  if (news.from > 0) while (kept < part.step.length && part.step[kept] - (part.step[kept] % news.width) < news.from) kept++;
  for (const name of ["step", "tokens"]) {
    part[name].length = kept;
    for (const value of news[name]) part[name].push(value);
  }
  part.width = news.width;
  return kept;
}

function joinBand(band, news, kept) {
  for (const name of SERIES_LISTS) {
    band[name].length = kept;
    for (const value of news[name] ?? news.mean) band[name].push(value);
  }
}

/** Columns of numbers from the upper halves of their 32 bits. */
function columns(text, cells) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const bits = new Uint32Array(bytes.length / 2);
  for (let index = 0; index < bits.length; index++) bits[index] = ((bytes[2 * index + 1] << 24) | (bytes[2 * index] << 16)) >>> 0;
  const values = new Float32Array(bits.buffer);
  return Array.from({ length: cells ? values.length / cells : 0 }, (_, column) => values.subarray(column * cells, (column + 1) * cells));
}
