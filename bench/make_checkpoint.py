"""Write a dots1 GGUF of random bf16 weights at any size, for measuring speed side by side with other engines.

    python make_checkpoint.py OUT.gguf --vocab ggml-vocab-qwen2.gguf [--layers 5] [--hidden 4096] ...

Needs numpy and gguf. The vocabulary comes from a vocab-only GGUF (llama.cpp's models/ has one for qwen2). The defaults
are one dense and four MoE layers of the published width: 10.7 B parameters, 21 GB; `llama-quantize OUT.gguf Q4.gguf
Q4_K_M` makes 6.7 GB of it. Tensors repeat windows of one pool of normal numbers: fit for timing, not for quality.
"""
import argparse

import gguf
import numpy as np

BF16, F32 = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.F32
POOL = 1 << 24
SPECIAL = ["<|userprompt|>", "<|endofuserprompt|>", "<|response|>", "<|endofresponse|>", "<|system|>", "<|endofsystem|>"]
TEMPLATE = ("{% for m in messages %}{% if m['role'] == 'system' %}<|system|>{{ m['content'] }}<|endofsystem|>"
            "{% elif m['role'] == 'user' %}<|userprompt|>{{ m['content'] }}<|endofuserprompt|>"
            "{% else %}<|response|>{{ m['content'] }}<|endofresponse|>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|response|>{% endif %}")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out")
    p.add_argument("--vocab", required=True, help="a GGUF file with Qwen2's vocabulary")
    for name, value in dict(layers=5, hidden=4096, heads=32, head_dim=128, ffn=10944, moe_ffn=1408, experts=128, topk=6,
                            shared=2, vocab_size=152064, ctx=32768, seed=0).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    return p.parse_args()


def write_metadata(w, a):
    w.add_name("dots1-random")
    w.add_block_count(a.layers)
    w.add_context_length(a.ctx)
    w.add_embedding_length(a.hidden)
    w.add_feed_forward_length(a.ffn)
    w.add_head_count(a.heads)
    w.add_head_count_kv(a.heads)
    w.add_key_length(a.head_dim)
    w.add_value_length(a.head_dim)
    w.add_rope_freq_base(1e7)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(a.vocab_size)
    w.add_expert_count(a.experts)
    w.add_expert_used_count(a.topk)
    w.add_expert_shared_count(a.shared)
    w.add_expert_feed_forward_length(a.moe_ffn)
    w.add_leading_dense_block_count(1)
    w.add_expert_weights_scale(2.5)
    w.add_expert_weights_norm(True)
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def write_vocabulary(w, path, size):
    fields = gguf.GGUFReader(path).fields
    strings = lambda key: [bytes(fields[key].parts[i]) for i in fields[key].data]
    tokens = strings("tokenizer.ggml.tokens")
    types = [int(fields["tokenizer.ggml.token_type"].parts[i][0]) for i in fields["tokenizer.ggml.token_type"].data]
    tokens, types = tokens[:size], types[:size]
    for token in SPECIAL[:size - len(tokens)]:
        tokens.append(token.encode())
        types.append(gguf.TokenType.CONTROL)
    while len(tokens) < size:
        tokens.append(f"[PAD{len(tokens)}]".encode())
        types.append(gguf.TokenType.UNUSED)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges(strings("tokenizer.ggml.merges"))
    w.add_eos_token_id(tokens.index(b"<|endoftext|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)


def tensors(a):
    """Name, shape, standard deviation (None: a norm's weights, around 1) and type of every tensor."""
    hidden, heads, shared = a.hidden, a.heads * a.head_dim, a.moe_ffn * a.shared
    matrix = lambda name, *shape: (name + ".weight", shape, shape[-1] ** -0.5, BF16)
    norm = lambda name, width: (name + ".weight", (width,), None, F32)
    yield ("token_embd.weight", (a.vocab_size, hidden), 1.0, BF16)
    yield norm("output_norm", hidden)
    yield matrix("output", a.vocab_size, hidden)
    for layer in range(a.layers):
        b = f"blk.{layer}."
        yield norm(b + "attn_norm", hidden)
        yield norm(b + "ffn_norm", hidden)
        yield norm(b + "attn_q_norm", a.head_dim)
        yield norm(b + "attn_k_norm", a.head_dim)
        for x in "qkv":
            yield matrix(b + f"attn_{x}", heads, hidden)
        yield matrix(b + "attn_output", hidden, heads)
        widths = [("", a.ffn)] if layer == 0 else [("_shexp", shared)]
        if layer > 0:
            yield (b + "ffn_gate_inp.weight", (a.experts, hidden), hidden ** -0.5, F32)
            yield (b + "exp_probs_b.bias", (a.experts,), 0.05, F32)
            yield matrix(b + "ffn_gate_exps", a.experts, a.moe_ffn, hidden)
            yield matrix(b + "ffn_up_exps", a.experts, a.moe_ffn, hidden)
            yield matrix(b + "ffn_down_exps", a.experts, hidden, a.moe_ffn)
        for suffix, width in widths:
            yield matrix(b + "ffn_gate" + suffix, width, hidden)
            yield matrix(b + "ffn_up" + suffix, width, hidden)
            yield matrix(b + "ffn_down" + suffix, hidden, width)


def bf16(x):
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_matrix(file, count, pool, rng):
    """`count` numbers of `pool`, in windows that begin anywhere: never more than the pool in memory."""
    while count > 0:
        start = int(rng.integers(0, POOL // 16))
        window = pool[start:start + count]
        window.tofile(file)
        count -= len(window)


def main():
    a = arguments()
    rng = np.random.default_rng(a.seed)
    w = gguf.GGUFWriter(a.out, "dots1")
    write_metadata(w, a)
    write_vocabulary(w, a.vocab, a.vocab_size)
    specs = list(tensors(a))
    for name, shape, _, kind in specs:
        if kind == BF16:
            stored = shape[:-1] + (shape[-1] * 2,)
            w.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=BF16)
        else:
            w.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    file = w.fout[0]
    normal = rng.standard_normal(POOL, dtype=np.float32)
    pools = {std: bf16(normal * np.float32(std)) for std in {std for _, _, std, kind in specs if kind == BF16}}
    for name, shape, std, kind in specs:
        count = int(np.prod(shape))
        w.write_padding(file, file.tell())
        if kind == BF16:
            write_matrix(file, count, pools[std], rng)
        else:
            x = rng.standard_normal(count, dtype=np.float32)
            (1 + 0.1 * x if std is None else std * x).astype(np.float32).tofile(file)
        w.write_padding(file, file.tell())
    w.close()
    print("wrote", a.out)


if __name__ == "__main__":
    main()
