#!/usr/bin/env python3
"""How fast PyTorch trains a small dots.llm1: transformers' own model, AdamW included. Prints JSON.

    python bench/train_peer.py [--steps 4] [--threads 2] [--only NAME ...]

The shape is the one that training's speed is held to: 24.4 M parameters in 8 layers (one dense), width 256, 32 experts of 96, top-6,
two shared experts, a vocabulary of 8,192, and 8 sequences of 512 tokens a step. Needs torch and transformers 5.
"""

import argparse
import contextlib
import json
import statistics
import time

import torch
import transformers
from transformers import Dots1Config, Dots1ForCausalLM

SEQUENCES, TOKENS = 8, 512

# Name: how experts are multiplied, and whether under bf16 autocast.
VARIANTS = {
    "eager f32": ("eager", False),
    "grouped_mm f32": ("grouped_mm", False),
    "grouped_mm bf16": ("grouped_mm", True),
    "eager bf16": ("eager", True),
}


def model(experts: str, heads: int) -> Dots1ForCausalLM:
    torch.manual_seed(1)
    config = Dots1Config(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=704,
        moe_intermediate_size=96,
        num_hidden_layers=8,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=256 // heads,
        n_shared_experts=2,
        n_routed_experts=32,
        num_experts_per_tok=6,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        max_position_embeddings=TOKENS,
        sliding_window=None,
        use_cache=False,
        attn_implementation="sdpa",
        experts_implementation=experts,
    )
    return Dots1ForCausalLM(config)


def run(experts: str, bf16: bool, steps: int, heads: int) -> dict:
    net = model(experts, heads)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(0, 8192, (SEQUENCES, TOKENS), generator=torch.Generator().manual_seed(2))
    seconds = []
    # The first step also allocates.
    for _ in range(steps + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = net(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "tokens_per_second": round(SEQUENCES * TOKENS / median, 1),
        "seconds_a_step": [round(s, 3) for s in seconds],
        "loss": round(loss.item(), 4),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--heads", type=int, default=4, help="heads that share the width of 256")
    options.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    results = {name: run(*VARIANTS[name], args.steps, args.heads) for name in args.only}
    facts = {"torch": torch.__version__, "transformers": transformers.__version__, "threads": args.threads}
    print(json.dumps({**facts, "heads": args.heads, "tokens_a_step": SEQUENCES * TOKENS, "results": results}, indent=1))


if __name__ == "__main__":
    main()
