#!/usr/bin/env python3
"""How even the load of experts is over a run: the curve of max/mean load, and a table.

    python3 bench/balance.py --out docs/balance.svg NAME=RUN…

RUN is a folder of `dots train` or its metrics.jsonl. Loads are summed over 100 steps, the largest of a layer is divided by the layer's mean, and the worst
layer is drawn: 1 is an even load, experts / top-k all that can be.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runs/nano"))
import drawings

WINDOW = 100
SETTLED = 500  # from here on loads are held to 1.2


def loads(run):
    """[step][layer][expert]: tokens."""
    file = run / "metrics.jsonl" if run.is_dir() else run
    lines = map(json.loads, file.read_text().splitlines())
    return [[router["loads"] for router in line["routers"]] for line in lines if "routers" in line]


def evenness(steps):
    """[(last step of a window, [max/mean by layer])]."""
    layers, experts = len(steps[0]), len(steps[0][0])
    sums = [[0] * experts for _ in range(layers)]
    found = []
    for i, step in enumerate(steps):
        gone = steps[i - WINDOW] if i >= WINDOW else None
        for layer in range(layers):
            for expert in range(experts):
                sums[layer][expert] += step[layer][expert] - (gone[layer][expert] if gone else 0)
        if i + 1 >= WINDOW:
            found.append((i + 1, [max(row) * experts / sum(row) for row in sums]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    arguments = parser.parse_args()
    curves = {}
    print(f"| run | steps | worst layer, steps 1-{WINDOW} | steps {SETTLED - WINDOW + 1}-{SETTLED} | last {WINDOW} | worst of all windows from step {SETTLED} on |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for named in arguments.runs:
        name, _, run = named.rpartition("=")
        found = evenness(loads(pathlib.Path(run)))
        curves[name] = [(step, max(layers)) for step, layers in found]
        at = dict(curves[name])
        # The windows that begin at SETTLED or later.
        after = [worst for step, worst in curves[name] if step >= SETTLED + WINDOW]
        cell = lambda value: "–" if value is None else f"{value:.3f}"
        print(f"| {name} | {found[-1][0]} | {cell(at.get(WINDOW))} | {cell(at.get(SETTLED))} | {curves[name][-1][1]:.3f} | {cell(max(after, default=None))} |")
    arguments.out.write_text(drawings.curves(f"max / mean load of an expert over {WINDOW} steps, worst layer", curves, "steps"))


if __name__ == "__main__":
    main()
