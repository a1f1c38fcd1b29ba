"""Write a Hugging Face folder of dots.llm1 as a BF16 GGUF file, ready for llama-quantize.

    python to_gguf.py FOLDER OUT.gguf

Needs numpy, gguf, torch and safetensors. llama.cpp's own converter knows tokenizers by a list of published ones, so it
refuses the small model's.
"""
import json
import sys

import gguf
import numpy as np
import torch
from safetensors import safe_open

BF16 = gguf.GGMLQuantizationType.BF16
LAYER = {
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
    **{f"self_attn.{x}_proj.weight": f"attn_{x}.weight" for x in "qkv"}, "self_attn.o_proj.weight": "attn_output.weight",
    **{f"self_attn.{x}_norm.weight": f"attn_{x}_norm.weight" for x in "qk"},
    "mlp.gate.weight": "ffn_gate_inp.weight", "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
    **{f"mlp.{x}_proj.weight": f"ffn_{x}.weight" for x in ("gate", "up", "down")},
    **{f"mlp.shared_experts.{x}_proj.weight": f"ffn_{x}_shexp.weight" for x in ("gate", "up", "down")},
}
MODEL = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}


def write_metadata(w, c):
    w.add_name("dots1-small")
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(c["vocab_size"])
    w.add_expert_count(c["n_routed_experts"])
    w.add_expert_used_count(c["num_experts_per_tok"])
    w.add_expert_shared_count(c["n_shared_experts"])
    w.add_expert_feed_forward_length(c["moe_intermediate_size"])
    w.add_leading_dense_block_count(c["first_k_dense_replace"])
    w.add_expert_weights_scale(c["routed_scaling_factor"])
    w.add_expert_weights_norm(c["norm_topk_prob"])
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def write_vocabulary(w, folder, config):
    tokenizer = json.load(open(f"{folder}/tokenizer.json", encoding="utf-8"))
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    by_id = {id: token for token, id in tokenizer["model"]["vocab"].items()} | added
    tokens = [by_id.get(id, f"[PAD{id}]") for id in range(config["vocab_size"])]
    types = [gguf.TokenType.CONTROL if id in added else gguf.TokenType.NORMAL if id in by_id else gguf.TokenType.UNUSED
             for id in range(config["vocab_size"])]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    w.add_eos_token_id(config["eos_token_id"])
    w.add_add_bos_token(False)
    w.add_chat_template(json.load(open(f"{folder}/tokenizer_config.json", encoding="utf-8"))["chat_template"])


def tensors(file, config):
    """GGUF name and tensor of each, experts of one projection stacked."""
    for name, renamed in MODEL.items():
        yield renamed, file.get_tensor(name)
    names = set(file.keys())
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, renamed in LAYER.items():
            if prefix + name in names:
                yield f"blk.{layer}.{renamed}", file.get_tensor(prefix + name)
        for x in ("gate", "up", "down"):
            experts = [f"{prefix}mlp.experts.{e}.{x}_proj.weight" for e in range(config["n_routed_experts"])]
            if experts[0] in names:
                yield f"blk.{layer}.ffn_{x}_exps.weight", torch.stack([file.get_tensor(expert) for expert in experts])


def main():
    folder, out = sys.argv[1:]
    config = json.load(open(f"{folder}/config.json", encoding="utf-8"))
    w = gguf.GGUFWriter(out, "dots1")
    write_metadata(w, config)
    write_vocabulary(w, folder, config)
    with safe_open(f"{folder}/model.safetensors", "pt") as file:
        for name, tensor in tensors(file, config):
            if tensor.dim() == 1 or "ffn_gate_inp" in name:
                w.add_tensor(name, tensor.float().numpy())
            else:
                w.add_tensor(name, tensor.to(torch.bfloat16).view(torch.uint16).numpy().view(np.uint8), raw_dtype=BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    print("wrote", out)


if __name__ == "__main__":
    main()
