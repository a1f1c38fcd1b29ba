// Colours of what is drawn. Lines: the palette of Okabe and Ito, that the colour-blind can tell apart. Layers: from blue to
// yellow, whose lightness alone orders them. Heat: blue and orange around what is even.

const RUNS = {
  light: ["#0072b2", "#d55e00", "#008a65", "#b3568f", "#8a6d00", "#2b8fc7", "#5a5a5a", "#7a3fb0"],
  dark: ["#56b4e9", "#ff9a4d", "#2fcf9f", "#e79ac9", "#f0e442", "#8ecdf0", "#bdbdbd", "#c39bf0"],
};

const VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];

const INKS = {
  light: { ink: "#24211d", soft: "#665f56", line: "#ebe6de", edge: "#8b8378", even: "#f4f0ea", low: "#0b5394", high: "#b84a00", paper: "#ffffff" },
  dark: { ink: "#ece8e2", soft: "#aaa298", line: "#34312d", edge: "#7d766c", even: "#2c2a27", low: "#6db8ff", high: "#ffa24f", paper: "#201f1d" },
};

/** Whether the page is dark now. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

export function inks() {
  return INKS[isDark() ? "dark" : "light"];
}

/** The colour of a run, or of a source. */
export function runColour(index) {
  const colours = RUNS[isDark() ? "dark" : "light"];
  return colours[index % colours.length];
}

/** The colour of one of so many layers. */
export function layerColour(index, count) {
  // The ends that lie too near to the paper are left out.
  const [from, to] = isDark() ? [0.3, 1] : [0, 0.82];
  return between(VIRIDIS, from + (to - from) * (count > 1 ? index / (count - 1) : 0.5)).css;
}

/** The colour for -1 (low) to 1 (high), as numbers. */
export function heatColour(value) {
  const { low, even, high } = inks();
  return between([low, even, high], (Math.max(-1, Math.min(1, value)) + 1) / 2).rgb;
}

function between(colours, share) {
  const place = Math.max(0, Math.min(1, share)) * (colours.length - 1);
  const index = Math.min(colours.length - 2, Math.floor(place));
  const [one, two] = [colours[index], colours[index + 1]].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const rgb = one.map((part, at) => Math.round(part + (two[at] - part) * (place - index)));
  return { rgb, css: `rgb(${rgb.join(" ")})` };
}
