#!/usr/bin/env python3
"""PyTorch's loss on what a run of ours reads, from the same initial weights: transformers' own model, the recipe's steps.

    cargo run --release -p dots-train --example batches -- RECIPE.toml IN STEPS 1 2 3
    dots train SEED-1.toml -o RUN           # the recipe, with `start = "IN/seed-1"` instead of `preset`; so for each seed
    python bench/train_loss.py IN/seed-1 IN --rate 1e-3 --warmup 100 [--out FILE]      # a line a step
    python bench/train_loss.py --compare FILE RUN/metrics.jsonl RUN2/... RUN3/...

Trains in bf16 autocast on the micro-batches in IN (attention over whole sequences), with AdamW, clipping, the balancing biases and the
sequence loss as `docs/training.md` says them. The second form compares means over 20 steps: PyTorch's distance from the first run, beside
the distances among the runs, which differ in their initial weights only. Needs torch and transformers 5.
"""

import argparse
import json
import statistics
import sys

import numpy
import torch
from torch.nn import functional
from transformers import Dots1ForCausalLM

NO_TARGET, WINDOW = 4294967295, 20


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    net = Dots1ForCausalLM.from_pretrained(
        args.start, dtype=torch.float32, attn_implementation="sdpa", experts_implementation="grouped_mm"
    ).train()
    read = lambda name: torch.from_numpy(numpy.fromfile(f"{args.data}/{name}.bin", "<u4").astype("i8"))
    tokens, targets = (read(name).view(-1, args.sequences, args.length) for name in ("tokens", "targets"))
    targets[targets == NO_TARGET] = -100

    gates = [layer.mlp.gate for layer in net.model.layers if hasattr(layer.mlp, "gate")]
    seen = {}
    for gate in gates:
        gate.register_forward_hook(lambda module, given, found: seen.__setitem__(module, (given[0], found[2])))

    def balance_loss() -> torch.Tensor:
        """DeepSeek-V3's equations 17 to 20, summed over layers, meaned over sequences."""
        total = 0.0
        for gate in gates:
            hidden = seen[gate][0].reshape(args.sequences, args.length, -1).float()
            scores = (hidden @ gate.weight.float().T).sigmoid()
            chosen = scores.topk(gate.top_k, -1).indices
            counts = torch.zeros_like(scores).scatter_(-1, chosen, 1.0).sum(1)
            f = counts * gate.num_experts / (gate.top_k * args.length)
            p = (scores / scores.sum(-1, keepdim=True)).mean(1)
            total = total + (f * p).sum(-1).mean()
        return total

    decayed = [p for p in net.parameters() if p.dim() >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": [p for p in net.parameters() if p.dim() < 2], "weight_decay": 0.0}],
        lr=args.rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1,
    )
    out = open(args.out, "w") if args.out else sys.stdout
    for step in range(len(tokens)):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / args.warmup)
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(input_ids=tokens[step]).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), targets[step].flatten())
        (loss + args.sequence_loss * balance_loss()).backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        for gate in gates:
            loads = torch.bincount(seen[gate][1].flatten(), minlength=gate.num_experts).float()
            gate.e_score_correction_bias += args.bias_rate * torch.sign(loads.mean() - loads)
        print(json.dumps({"step": step + 1, "loss": loss.item(), "gradient_norm": norm.item()}), file=out, flush=True)


def means(path: str) -> list[float]:
    lines = [line for line in map(json.loads, open(path)) if "loss" in line]
    losses = [line["loss"] for line in lines]
    return [statistics.fmean(losses[at : at + WINDOW]) for at in range(0, len(losses) - WINDOW + 1, WINDOW)]


def compare(paths: list[str]) -> None:
    peer, *ours = map(means, paths)
    within, windows = 0, list(zip(peer, *ours))
    for window, (theirs, *runs) in enumerate(windows):
        apart, spread = abs(theirs - runs[0]), max(runs) - min(runs)
        within += apart <= spread
        print(f"steps {window * WINDOW + 1:4}-{(window + 1) * WINDOW:4}  PyTorch {theirs:.4f}  ours {runs[0]:.4f}  apart {apart:.4f}  spread {spread:.4f}")
    print(f"{within} of {len(windows)} means are nearer than the spread of {len(ours)} runs")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("start", nargs="?", help="folder of the initial weights")
    options.add_argument("data", nargs="?", help="folder with tokens.bin and targets.bin")
    options.add_argument("--out")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--sequences", type=int, default=8)
    options.add_argument("--length", type=int, default=512)
    options.add_argument("--rate", type=float, default=1e-3)
    options.add_argument("--warmup", type=int, default=100)
    options.add_argument("--sequence-loss", type=float, default=1e-4)
    options.add_argument("--bias-rate", type=float, default=1e-3)
    options.add_argument("--compare", nargs="+", metavar="FILE")
    args = options.parse_args()
    if not args.compare and not args.data:
        options.error("expected the folder of the initial weights and that of tokens.bin, or --compare")
    compare(args.compare) if args.compare else train(args)


if __name__ == "__main__":
    main()
