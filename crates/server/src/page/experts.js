// The picture of an empty conversation: the model's 128 experts, and six that are at work for one token, then six others.

const COLUMNS = 16;
const ROWS = 8;
const AT_WORK = 6;
/** Between two tokens; slower than any model, so that it stays a background. */
const TOKEN_MS = 1600;

/** Fills an SVG element. It moves only while it is seen, and not for those who asked for less motion. */
export function showExperts(svg) {
  const dots = Array.from({ length: COLUMNS * ROWS }, (_, i) => {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("cx", String((i % COLUMNS) * 12 + 6));
    dot.setAttribute("cy", String(Math.floor(i / COLUMNS) * 12 + 6));
    dot.setAttribute("r", "3");
    svg.append(dot);
    return dot;
  });
  const route = () => {
    const chosen = new Set();
    while (chosen.size < AT_WORK) chosen.add(Math.floor(Math.random() * dots.length));
    dots.forEach((dot, i) => dot.classList.toggle("at-work", chosen.has(i)));
  };
  route();
  const stillness = matchMedia("(prefers-reduced-motion: reduce)");
  setInterval(() => {
    if (!document.hidden && !stillness.matches && svg.checkVisibility?.() !== false) route();
  }, TOKEN_MS);
}
