"""A made run's folder as training writes it: layers of experts, a spike, a pause, a dead expert, phases, checkpoints.

    python3 tests/page/fake_run.py FOLDER [STEPS] [SEED]
"""

import json
import math
import pathlib
import random
import sys

LAYERS, EXPERTS, BATCH = 5, 32, 8192


class FakeRun:
    def __init__(self, folder, seed=1, name="small"):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "metrics.jsonl"
        self.random = random.Random(seed)
        self.loss_floor = 2.6 + 0.1 * seed
        self.skew = [[self.random.gauss(0, 1) for _ in range(EXPERTS)] for _ in range(LAYERS)]
        self.biases = [[0.0] * EXPERTS for _ in range(LAYERS)]
        lineage = {"name": name, "parent": "runs/base@step-000200", "changes": {"optimizer.clip": 0.5}, "isa": "avx512_bf16", "seed": seed}
        (self.folder / "run.json").write_text(json.dumps(lineage))
        (self.folder / "recipe.toml").write_text(f'name = "{name}"\nseed = {seed}\n\n[model]\nlayers = 6\nwidth = 256\n')
        self.time = 1_764_000_000.0

    def step(self, step, total=3000):
        """The lines of one step."""
        chance = self.random
        share = step / total
        phase = "warmup" if share < 0.05 else "stable" if share < 0.75 else "anneal"
        rate = 3e-4 * min(1, share / 0.05) * (1 if share < 0.75 else math.exp(-6 * (share - 0.75)))
        spike = 1.6 * math.exp(-(step - total // 2) / 25) if step >= total // 2 else 0
        loss = self.loss_floor + 6.4 * math.exp(-step / (total * 0.07)) + 0.9 * math.exp(-step / (total * 0.5)) + spike + chance.gauss(0, 0.05)
        seconds = 1.9 + chance.gauss(0, 0.05)
        stood = 7200 if step == int(total * 0.4) else 0
        resumed = [{"step": step - 1, "resumed": {"time": self.time + stood, "host": "here", "threads": 2}}] if stood else []
        self.time += seconds + stood
        speed = BATCH / seconds
        line = {
            "step": step, "tokens": step * BATCH, "phase": phase, "time": self.time, "seconds": seconds, "loss": loss,
            "sequence_loss": 1 + 0.4 * math.exp(-share * 20) + abs(chance.gauss(0, 0.004)), "learning_rate": rate, "batch_tokens": BATCH,
            "sequence_tokens": 512, "gradient_norm": 0.5 + 4 * math.exp(-share * 15) + 3 * spike + abs(chance.gauss(0, 0.15)),
            "weight_norm": 40 + 20 * math.sqrt(share), "tokens_per_second": speed, "flops_per_second": speed * 2.8e7,
            "peak_flops_per_second": 2.3e11, "routers": [self.router(layer, step, share, total) for layer in range(LAYERS)],
        }
        lines = [*resumed, line]
        if step % max(1, total // 30) == 0:
            losses = {domain: {"loss": loss + extra, "targets": 65000} for domain, extra in (("en", 0.1), ("zh", 0.45), ("code", -0.6))}
            lines.append({"step": step, "tokens": step * BATCH, "validation": losses})
        if step and step % (total // 6) == 0:
            lines.append({"step": step, "checkpoint": f"step-{step:06}-tokens-{step * BATCH // 1_000_000:04}M"})
        return lines

    def router(self, layer, step, share, total):
        chance, biases = self.random, self.biases[layer]
        weights = [math.exp(skew * 0.9 + bias * 12 + chance.gauss(0, 0.08)) for skew, bias in zip(self.skew[layer], biases)]
        if layer == 2 and share > 0.3:
            weights[17] = 0.0
        all_weights = sum(weights)
        loads = [round(6 * BATCH * weight / all_weights) for weight in weights]
        mean = sum(loads) / EXPERTS
        for expert, load in enumerate(loads):
            biases[expert] += math.copysign(1e-3 * 600 / total, mean - load)
        entropy = -sum(p * math.log(p) for p in (weight / all_weights for weight in weights) if p > 0)
        return {"layer": layer + 1, "loads": loads, "biases": [round(bias, 5) for bias in biases], "entropy": entropy}

    def write(self, steps, total=3000):
        with self.file.open("a") as file:
            for step in steps:
                for line in self.step(step, total):
                    file.write(json.dumps(line) + "\n")

    def append(self, text):
        with self.file.open("a") as file:
            file.write(text)


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 3000
    FakeRun(sys.argv[1], int(sys.argv[3]) if len(sys.argv) > 3 else 1, pathlib.Path(sys.argv[1]).name).write(range(1, count + 1), count)
