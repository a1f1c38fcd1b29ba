"""Drawings for the card, as SVG: curves over tokens, and a map of numbers from 0 up."""

from xml.sax.saxutils import escape

COLOURS = ("#2563eb", "#dc2626", "#16a34a")
STYLE = "<style>text{font:12px sans-serif;fill:#444}.g{stroke:#ddd}</style>"


def page(width, height, parts):
    background = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{STYLE}{background}{"".join(parts)}</svg>\n'


def curves(title, lines, unit="M tokens"):
    """lines: {name: [(x, y)]}, x in units of the axis."""
    width, height, left, top, right, bottom = 720, 320, 50, 30, 15, 40
    points = [point for line in lines.values() for point in line]
    if not points:
        return page(width, height, [f'<text x="{left}" y="18">{escape(title)}: nothing was written down</text>'])
    last = max(x for x, _ in points) or 1
    low, high = min(y for _, y in points), max(y for _, y in points)
    floor = 0 if low >= 0 else low - 0.05 * (high - low)  # what is never below nothing is drawn from there
    low, high = floor, high + 0.05 * (high - low or 1)
    across = lambda x: left + x / last * (width - left - right)
    down = lambda y: top + (high - y) / (high - low) * (height - top - bottom)
    parts = [f'<text x="{left}" y="18">{escape(title)}</text>']
    for i in range(6):
        y, x = low + (high - low) * i / 5, last * i / 5
        parts.append(f'<line class="g" x1="{left}" x2="{width - right}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y:.2f}</text>')
        parts.append(f'<text x="{across(x):.1f}" y="{height - bottom + 16}" text-anchor="middle">{x:.3g}</text>')
    parts.append(f'<text x="{width - right}" y="{height - 6}" text-anchor="end">{unit}</text>')
    beside = width - right  # names stand beside the title, where no curve runs
    for (name, line), colour in zip(lines.items(), COLOURS):
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>')
        parts.append(f'<text x="{beside}" y="18" text-anchor="end" style="fill:{colour}">{escape(name)}</text>')
        beside -= 7 * len(name) + 15
    return page(width, height, parts)


def load_map(title, rows, fair):
    """rows: [(name, [share])]; a share of `fair` is white, more is red, less is blue."""
    cell, left, top = 18, 80, 30
    parts = [f'<text x="{left}" y="18">{escape(title)}</text>']
    for r, (name, shares) in enumerate(rows):
        y = top + r * cell
        parts.append(f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        for c, share in enumerate(shares):
            away = max(-1, min(1, (share - fair) / (2 * fair)))
            fade = round(255 * (1 - abs(away)))
            colour = f"rgb(255,{fade},{fade})" if away > 0 else f"rgb({fade},{fade},255)"
            parts.append(f'<rect x="{left + c * cell}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="{colour}" stroke="#ccc" stroke-width=".5"><title>{name}, expert {c}: {100 * share:.1f} %</title></rect>')
    columns = max((len(shares) for _, shares in rows), default=1)
    return page(left + columns * cell + 15, top + len(rows) * cell + 10, parts)
