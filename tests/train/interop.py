#!/usr/bin/env python3
"""A checkpoint that `dots train` released, loaded by programs that are not ours, which must compute what dots computes.

    tests/train/interop.py DOTS RUN/checkpoints/step-… [--text FILE] [--llama DIR]

DOTS is the dots binary. `transformers` loads the folder as a Dots1ForCausalLM and computes in f32; with --llama, a folder with
llama.cpp's llama-server, that loads what `dots export --gguf --type F32` writes. Both are asked for the log-probabilities of the
likeliest tokens at every position of a text, and hold them to those of `dots serve --arithmetic exact`; and for a greedy
continuation, which must be the same tokens.

Needs torch and transformers, so it is no part of .ci/run; run it by hand, after a change to what checkpoints hold.
"""
import argparse
import contextlib
import json
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# Of log-probabilities in f32, summed in another order by each program.
F32_NOISE = 2e-4
# llama.cpp keeps keys and values in f16.
F16_NOISE = 2e-3
TOP = 20
TOKENS = 96
GREEDY = 24


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dots")
    p.add_argument("checkpoint", type=pathlib.Path)
    p.add_argument("--text", type=pathlib.Path, default=pathlib.Path(__file__).parents[2] / "README.md")
    p.add_argument("--llama", type=pathlib.Path, help="folder with llama-server")
    return p.parse_args()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


@contextlib.contextmanager
def server(command, ready):
    """The address of a server that is started with --port, once `ready` answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
        try:
            for _ in range(1200):
                with contextlib.suppress(urllib.error.URLError, OSError):
                    urllib.request.urlopen(url + ready, timeout=5)
                    break
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{command[0]} ended:\n{log.read().decode(errors='replace')}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()


def ours(a, ids):
    """[{id: log-probability}] of the likeliest tokens after each of `ids`, and the greedy continuation's text."""
    with server([a.dots, "serve", str(a.checkpoint), "--arithmetic", "exact"], "/ready") as url:
        name = json.load(urllib.request.urlopen(url + "/v1/models"))["data"][0]["id"]
        answer = post(url + "/v1/completions", {"model": name, "prompt": ids, "prompt_logprobs": TOP, "max_tokens": GREEDY,
                                                "temperature": 0, "ignore_eos": True})
    choice = answer["choices"][0]
    # That of a token stands at its own position: what is likely after the one before.
    positions = choice.get("prompt_logprobs", answer.get("prompt_logprobs"))[1:]
    return [{int(id): found["logprob"] for id, found in position.items()} for position in positions], choice["text"]


def load(a):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(a.checkpoint, dtype=torch.float32, output_loading_info=True)
    assert type(model).__name__ == "Dots1ForCausalLM", type(model)
    wrong = {key: sorted(found) for key, found in info.items() if found}
    assert not wrong, wrong
    return model.eval(), AutoTokenizer.from_pretrained(a.checkpoint)


def theirs(model, tokenizer, ids):
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
        greedy = list(ids)
        for _ in range(GREEDY):
            greedy.append(int(model(torch.tensor([greedy])).logits[0, -1].argmax()))
    return torch.log_softmax(logits, -1), tokenizer.decode(greedy[len(ids):])


def farthest(want, found):
    """The largest distance over positions and tokens."""
    return max(abs(found(at, id) - logprob) for at, position in enumerate(want) for id, logprob in position.items())


def with_llama(a, ids, want):
    """The same of llama.cpp, at every eighth position: it is asked anew for each."""
    with tempfile.TemporaryDirectory() as folder:
        gguf = pathlib.Path(folder) / "model.gguf"
        subprocess.run([a.dots, "export", a.checkpoint, "--gguf", gguf, "--type", "F32"], check=True)
        command = [a.llama / "llama-server", "-m", gguf, "-c", "512", "-np", "1", "--no-warmup"]
        with server([str(part) for part in command], "/health") as url:
            while True:
                try:
                    post(url + "/tokenize", {"content": "x"})
                    break
                except urllib.error.HTTPError:
                    time.sleep(0.2)
            far, same = 0.0, 0
            asked = range(7, len(ids) - 1, 8)
            for at in asked:
                body = {"prompt": ids[:at + 1], "n_predict": 1, "temperature": 0, "n_probs": TOP, "cache_prompt": False}
                answer = post(url + "/completion", body)["completion_probabilities"][0]
                found = {top["id"]: top["logprob"] for top in answer["top_logprobs"]}
                far = max(far, *(abs(want[at][id] - logprob) for id, logprob in found.items() if id in want[at]))
                same += max(found, key=found.get) == max(want[at], key=want[at].get)
            tokens = post(url + "/tokenize", {"content": TEXT, "parse_special": False})["tokens"][:len(ids)]
    return far, same, len(asked), tokens == ids


a = arguments()
TEXT = a.text.read_text()
model, tokenizer = load(a)
ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"][:TOKENS]
assert len(ids) > 16, f"{a.text}: expected a longer text"
want, continued = ours(a, ids)
found, their_continued = theirs(model, tokenizer, ids)
far = farthest(want, lambda at, id: float(found[at, id]))
print(f"transformers: {type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters; {len(want)} positions, "
      f"{TOP} tokens each: farthest log-probability {far:.1e}; greedy continuation {'the same' if continued == their_continued else 'another'}")
assert far < F32_NOISE
assert continued == their_continued, (continued, their_continued)
chat = [{"role": "user", "content": "1 + 1?"}]
print("chat template:", repr(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)))
if a.llama:
    far, same, asked, tokenized = with_llama(a, ids, want)
    print(f"llama.cpp: {asked} positions: farthest log-probability {far:.1e}, the same best token at {same}; "
          f"tokenised {'the same' if tokenized else 'otherwise'}")
    assert far < F16_NOISE and tokenized
