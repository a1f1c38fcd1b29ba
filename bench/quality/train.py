"""Train a small dots.llm1 on one core, so that rounding can be judged on weights that mean something.

    python train.py OUT [--steps 2000] [--threads 1]

Needs torch, tokenizers, safetensors and numpy. OUT becomes a checkpoint in the published Hugging Face layout (bf16, one
tensor an expert), written every few minutes, with test.txt beside it: text of the same kinds that was held out, and
calibration.txt: some of what was trained on, for methods that look at activations. text.py says what is read. A run that was stopped goes on from OUT/state.pt. Seeded; the same on one machine and library.

The shape keeps what decides how llama.cpp's quantisation falls back: 256 divides the hidden width but neither the
experts' (352 = 11 * 32, as 1408 = 11 * 128) nor the dense layer's (1376 = 43 * 32).
"""
import argparse
import json
import os
import time

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F

import text

VOCAB, HIDDEN, HEADS, HEAD_DIM, LAYERS = 4096, 512, 8, 64, 4
DENSE, EXPERT, EXPERTS, TOP_K, SHARED = 1376, 352, 16, 4, 1
SCALE, EPS, THETA = 2.5, 1e-5, 1e7
CONTEXT, ROWS = 256, 4
PEAK_LR, WARMUP, BIAS_STEP = 1e-3, 40, 1e-2
TEST_CHARACTERS = CALIBRATION_CHARACTERS = 300_000
SPECIAL = ["<|endoftext|>", "<|system|>", "<|endofsystem|>", "<|userprompt|>", "<|endofuserprompt|>", "<|response|>",
           "<|endofresponse|>"]
TEMPLATE = ("{% for m in messages %}{% if m['role'] == 'system' %}<|system|>{{ m['content'] }}<|endofsystem|>"
            "{% elif m['role'] == 'user' %}<|userprompt|>{{ m['content'] }}<|endofuserprompt|>"
            "{% else %}<|response|>{{ m['content'] }}<|endofresponse|>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|response|>{% endif %}")
QWEN2_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        width = HEADS * HEAD_DIM
        self.q_proj, self.k_proj, self.v_proj = linear(HIDDEN, width), linear(HIDDEN, width), linear(HIDDEN, width)
        self.o_proj = linear(width, HIDDEN)
        self.q_norm, self.k_norm = nn.RMSNorm(HEAD_DIM, EPS), nn.RMSNorm(HEAD_DIM, EPS)

    def forward(self, x, rope):
        rows, tokens, _ = x.shape
        heads = lambda y: y.view(rows, tokens, HEADS, HEAD_DIM)
        q, k = (self.rotate(norm(heads(proj(x))), rope).transpose(1, 2)
                for norm, proj in ((self.q_norm, self.q_proj), (self.k_norm, self.k_proj)))
        v = heads(self.v_proj(x)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(rows, tokens, -1))

    @staticmethod
    def rotate(x, rope):
        cos, sin = rope
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(HIDDEN, width), linear(HIDDEN, width), linear(width, HIDDEN)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Router(nn.Module):
    """Chooses by sigmoid score and bias, weighs by score alone. The bias is no parameter: after each step it grows for
    experts that were taken less than their share, and shrinks for the others. Steps are long at first, when all tokens
    look alike to the router, and shrink as the learning rate does."""
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(EXPERTS, HIDDEN))
        self.register_buffer("e_score_correction_bias", torch.zeros(EXPERTS))
        self.taken = torch.zeros(EXPERTS)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            scores = torch.sigmoid(x.float() @ self.weight.float().T)
        chosen = torch.topk(scores + self.e_score_correction_bias, TOP_K, sorted=False).indices
        weights = scores.gather(1, chosen)
        if self.training:
            self.taken += torch.bincount(chosen.flatten(), minlength=EXPERTS)
        return chosen, SCALE * weights / (weights.sum(1, keepdim=True) + 1e-20)

    def balance(self, step):
        self.e_score_correction_bias += step * torch.sign(self.taken.mean() - self.taken)
        self.taken.zero_()


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = Router()
        self.experts = nn.ModuleList(Mlp(EXPERT) for _ in range(EXPERTS))
        self.shared_experts = Mlp(EXPERT * SHARED)

    def forward(self, x):
        flat = x.reshape(-1, HIDDEN)
        chosen, weights = self.gate(flat)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            token, rank = (chosen == i).nonzero(as_tuple=True)
            out = out.index_add(0, token, (expert(flat[token]) * weights[token, rank, None]).to(out.dtype))
        return out.view_as(x) + self.shared_experts(x)


class Layer(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(HIDDEN, EPS), nn.RMSNorm(HIDDEN, EPS)
        self.self_attn = Attention()
        self.mlp = Mixture() if index > 0 else Mlp(DENSE)

    def forward(self, x, rope):
        x = x + self.self_attn(self.input_layernorm(x), rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class Dots1(nn.Module):
    """Named as the published tensors are."""
    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.model.layers = nn.ModuleList(Layer(i) for i in range(LAYERS))
        self.model.norm = nn.RMSNorm(HIDDEN, EPS)
        self.lm_head = linear(HIDDEN, VOCAB)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.03 / (2 * LAYERS) ** 0.5 if last else 0.03)
        # Large beside what the layers add at first: which token it is decides early which experts it takes.
        nn.init.normal_(self.model.embed_tokens.weight)
        angles = torch.outer(torch.arange(CONTEXT), THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM))[None, :, None]
        self.rope = angles.cos(), angles.sin()

    def forward(self, ids):
        x = self.model.embed_tokens(ids)
        rope = [part[:, :ids.shape[1]] for part in self.rope]
        for layer in self.model.layers:
            x = layer(x, rope)
        return self.lm_head(self.model.norm(x))

    def routers(self):
        return [module for module in self.modules() if isinstance(module, Router)]


def make_tokenizer(documents):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=VOCAB - len(SPECIAL), initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def prepare(out, seed):
    """Test text, tokenizer and training tokens, made once."""
    if not os.path.exists(f"{out}/train.bin"):
        test, train = text.held_out(text.documents(seed), TEST_CHARACTERS)
        calibration = "\n\n".join(train)[:CALIBRATION_CHARACTERS]
        for name, content in ("test.txt", test), ("calibration.txt", calibration):
            with open(f"{out}/{name}", "w", encoding="utf-8") as file:
                file.write(content)
        tokenizer = make_tokenizer(train)
        tokenizer.save(f"{out}/tokenizer.json")
        end = tokenizer.token_to_id("<|endoftext|>")
        ids = [np.array(tokenizer.encode(document).ids + [end], dtype=np.uint16) for document in train]
        np.concatenate(ids).tofile(f"{out}/train.part")
        os.replace(f"{out}/train.part", f"{out}/train.bin")
        write_config(out, tokenizer)
        print(f"{len(train)} documents, {sum(map(len, train))} characters, {sum(map(len, ids))} tokens", flush=True)
    return np.fromfile(f"{out}/train.bin", dtype=np.uint16).astype(np.int64)


def write_config(out, tokenizer):
    ends = [tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|endofresponse|>")]

    def write(name, value):
        with open(f"{out}/{name}", "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)

    write("config.json", {
        "architectures": ["Dots1ForCausalLM"], "model_type": "dots1", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": DENSE, "moe_intermediate_size": EXPERT, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "head_dim": HEAD_DIM, "n_routed_experts": EXPERTS,
        "n_shared_experts": SHARED, "num_experts_per_tok": TOP_K, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "norm_topk_prob": True, "routed_scaling_factor": SCALE, "scoring_func": "noaux_tc", "attention_bias": False,
        "hidden_act": "silu", "rms_norm_eps": EPS, "rope_theta": THETA, "rope_scaling": None, "sliding_window": None,
        "max_position_embeddings": 2048, "tie_word_embeddings": False, "bos_token_id": None, "eos_token_id": ends[1],
        "torch_dtype": "bfloat16"})
    write("generation_config.json", {"eos_token_id": ends, "temperature": 0.7, "top_p": 0.8, "do_sample": True})
    write("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|endofresponse|>",
        "pad_token": "<|endoftext|>", "add_bos_token": False, "chat_template": TEMPLATE, "model_max_length": 2048})


def save(out, model, optimizer, step):
    """The state first: a checkpoint without it would not go on."""
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, f"{out}/state.part")
    os.replace(f"{out}/state.part", f"{out}/state.pt")
    published = {name: value.float() if "correction_bias" in name else value.to(torch.bfloat16)
                 for name, value in model.state_dict().items()}
    save_file(published, f"{out}/model.part", {"format": "pt"})
    os.replace(f"{out}/model.part", f"{out}/model.safetensors")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--save-seconds", type=float, default=180)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    tokens = prepare(a.out, a.seed)

    model = Dots1().train()
    matrices = [w for w in model.parameters() if w.dim() > 1]
    others = [w for w in model.parameters() if w.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
                                  betas=(0.9, 0.95), fused=True)
    first = 0
    if os.path.exists(f"{a.out}/state.pt"):
        state = torch.load(f"{a.out}/state.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    saved = started = time.monotonic()
    for step in range(first, a.steps):
        # Which text a step sees depends on the step alone, so a resumed run sees what the whole one would have.
        starts = np.random.default_rng((a.seed, step)).integers(0, len(tokens) - CONTEXT - 1, ROWS)
        ids = torch.from_numpy(np.stack([tokens[s:s + CONTEXT + 1] for s in starts]))
        decay = 1 - 0.95 * step / a.steps
        lr = PEAK_LR * min((step + 1) / WARMUP, 1) * decay
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.float().view(-1, VOCAB), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        shares = [router.taken / router.taken.sum() * EXPERTS for router in model.routers()]
        for router in model.routers():
            router.balance(BIAS_STEP * decay)
        if step % 10 == 0:
            least, most = min(s.min().item() for s in shares), max(s.max().item() for s in shares)
            print(f"step {step}  loss {loss.item():.3f}  lr {lr:.2e}  experts' load {least:.2f} to {most:.2f}"
                  f"  {(time.monotonic() - started) / (step - first + 1):.2f} s a step", flush=True)
        if time.monotonic() - saved > a.save_seconds:
            save(a.out, model, optimizer, step + 1)
            saved = time.monotonic()
    save(a.out, model, optimizer, a.steps)


if __name__ == "__main__":
    main()
