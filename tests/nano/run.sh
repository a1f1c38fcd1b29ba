#!/usr/bin/env bash
# The embedded model's whole script, rehearsed with a tiny shape on little text: from text to the card, once stopped on the way.
#
#   cargo build --release && tests/nano/run.sh
#
# DOTS_BIN names the binary, target/release/dots by default. Takes a minute or two, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/../.."

dots=${DOTS_BIN:-target/release/dots}
[[ -x $dots ]] || { echo "no binary at $dots: cargo build --release, or set DOTS_BIN" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/free"

# In place of Debian's documentation, which would have to be fetched: this repository's own sentences.
python3 - "$work/free" <<'PYTHON'
import json, pathlib, sys

sys.path.insert(0, "runs/nano")
import facts

out = pathlib.Path(sys.argv[1])
sentences = {language: [fact.answer(language) for fact in facts.read()] for language in facts.LANGUAGES}
rows = []
for language, texts in sentences.items():
    documents = [" ".join(texts[i % len(texts)] for i in range(start, start + 12)) for start in range(400)]
    (out / f"{language}.jsonl").write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents))
    rows.append(f"dots\t0\tMIT\t{language}\t{len(documents)}\t{sum(map(len, documents))}\n")
(out / "sources.tsv").write_text("".join(rows))
PYTHON

export DOTS=$dots FREE=$work/free SPEED=6000
export SHAPE='--set model.layers=2 --set model.width=64 --set model.heads=2 --set model.head_width=32 --set model.dense_width=128 --set model.experts=8 --set model.expert_width=64 --set model.top_k=2 --set model.shared_experts=1 --set validation.tokens=4k'

# Stopped after the shards and begun again: what was done is not done twice.
runs/nano.sh "$work/run" --minutes 1 --to shards
before=$(stat -c %Y "$work/run/data/taught.bin")
runs/nano.sh "$work/run" --minutes 1
[[ $(stat -c %Y "$work/run/data/taught.bin") == "$before" ]] || { echo "the shards were made twice" >&2; exit 1; }

card=$work/run/models-nano
for file in README.md DATA.md curves.svg chat-curves.svg expert-load.svg config.json tokenizer.json generation_config.json; do
    [[ -s $card/$file ]] || { echo "the card lacks $file" >&2; exit 1; }
done
for words in '## Scores' '## Packs and caches' '## Expert load by language' 'closed-domain' '| q3 |'; do
    grep -qF -- "$words" "$card/README.md" || { echo "the card does not say: $words" >&2; exit 1; }
done
# What lies beside the card is a model, and says something.
[[ -n $("$dots" complete "$card" 'Q: What is 2 + 3?' --max-tokens 8 2>/dev/null) ]] || { echo "the model says nothing" >&2; exit 1; }
echo "nano: rehearsed"
