// Axes: from numbers to places, round numbers to write beside them, and how numbers are written.

/** The extent of numbers that are not null; [0, 1] where there is none. With `log`, of those above 0. */
export function extent(lists, log) {
  let low = Infinity;
  let high = -Infinity;
  for (const list of lists) {
    for (const value of list) {
      if (value === null || !Number.isFinite(value) || (log && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return log ? [1, 10] : [0, 1];
  if (low === high) {
    const half = Math.abs(low) * 0.05 || 0.5;
    return log ? [low / 1.1, high * 1.1] : [low - half, high + half];
  }
  return [low, high];
}

/** Places on a line of pixels. */
export class Scale {
  constructor(low, high, start, end, log = false) {
    this.log = log && low > 0;
    this.low = low;
    this.high = high;
    this.start = start;
    this.end = end;
  }

  at(value) {
    const share = this.log ? Math.log(value / this.low) / Math.log(this.high / this.low) : (value - this.low) / (this.high - this.low);
    return this.start + share * (this.end - this.start);
  }

  back(place) {
    const share = (place - this.start) / (this.end - this.start);
    return this.log ? this.low * (this.high / this.low) ** share : this.low + share * (this.high - this.low);
  }

  /** Round numbers on it, about so many. */
  ticks(count) {
    if (this.log && this.high / this.low > 8) {
      const decades = Math.log10(this.high / this.low);
      const steps = decades > count ? [1] : decades > count / 2 ? [1, 3] : [1, 2, 5];
      const found = [];
      const skip = Math.max(1, Math.ceil(decades / count));
      for (let power = Math.floor(Math.log10(this.low)); power <= Math.log10(this.high); power += skip) {
        for (const step of steps) found.push(step * 10 ** power);
      }
      return found.filter((tick) => tick >= this.low * 0.9999 && tick <= this.high * 1.0001);
    }
    const rough = (this.high - this.low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough) ?? rough;
    const found = [];
    for (let index = Math.ceil(this.low / step); index * step <= this.high && found.length < 50; index++) found.push(index * step);
    return found;
  }
}

/** A number in few digits: 1.25, 12.5K, 3e-4. */
export function brief(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 0.001) return value.toExponential(Math.max(0, digits - 1)).replace(/\.?0+e/, "e");
  for (const [unit, name] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "K"]]) {
    if (size >= unit) return `${trimmed(value / (unit === 1e4 ? 1e3 : unit), digits)}${name}`;
  }
  return trimmed(value, size >= 1000 ? 4 : digits);
}

function trimmed(value, digits) {
  const text = value.toPrecision(digits);
  return text.includes("e") ? String(Number(text)) : text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** Where in an ascending list a value would stand: the nearest one's index, or -1 where the list is empty. */
export function nearest(list, value) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  if (low > 0 && (low === list.length || value - list[low - 1] < list[low] - value)) return low - 1;
  return low < list.length ? low : -1;
}

/** Means in which what lies `half` steps back counts half, whatever the points' distance; the first point counts no more than any other. */
export function smooth(values, steps, half) {
  if (!half) return values;
  let mean = 0;
  let weight = 0;
  let last = null;
  return values.map((value, index) => {
    if (value === null) return null;
    const gap = last === null ? (steps[index + 1] ?? steps[index] + 1) - steps[index] : steps[index] - last;
    const decay = 0.5 ** (gap / half);
    last = steps[index];
    mean = mean * decay + value * (1 - decay);
    weight = weight * decay + (1 - decay);
    return mean / weight;
  });
}
