#!/bin/bash
# Rejection-sampling fine-tuning on sums, in a folder of its own: data, the run of sums.toml, a control without its rounds, and how many
# answers to sums that nobody showed or asked it are right after each phase. Minutes on one thread.
#
#   runs/sums.sh FOLDER [SEED]
#
# DOTS_BIN names the binary. What is there already is not made again: stopped, the same command goes on.
set -euo pipefail
recipe=$(cd "$(dirname "$0")" && pwd)/sums.toml
dots=$(realpath "${DOTS_BIN:-target/release/dots}")
mkdir -p "${1:?FOLDER}/data" && cd "$1"
seed=${2:-1}

# Every third sum with its answer, every sixth held out, the others to be asked. The order is awk's own arithmetic: the same everywhere.
if [[ ! -e data/held-out.jsonl ]]; then
    awk 'BEGIN {
        for (a = 0; a < 100; a++) for (b = 0; b < 10; b++) {
            kind = (a * 7 + b * 13 + int(a / 10) * 5 + (a * b) % 11) % 6
            user = sprintf("{\"role\": \"user\", \"content\": \"%d+%d\"}", a, b)
            if (kind < 2) printf "{\"messages\": [%s, {\"role\": \"assistant\", \"content\": \"%d\"}]}\n", user, a + b > "data/shown.jsonl"
            else printf "{\"messages\": [%s], \"answer\": %d}\n", user, a + b > (kind == 2 ? "data/held-out.part" : "data/asked.jsonl")
        }
    }'
    mv data/held-out.part data/held-out.jsonl
fi
[[ -e tokenizer ]] || "$dots" tokenizer train data/shown.jsonl -o tokenizer --vocab-size 263
run=run-$seed control=control-$seed
if [[ -e $run/recipe.toml ]]; then "$dots" train "$run" --threads 1; else "$dots" train "$recipe" -o "$run" --set "seed=$seed" --threads 1; fi
# The same steps on nothing but what was shown: what the rounds add is more than practice.
if [[ -e $control/recipe.toml ]]; then "$dots" train "$control" --threads 1; else
    "$dots" train --from "$run@147" -o "$control" --threads 1 --set 'phases.round-1.mixture={shown=1.0}' --set 'phases.round-2.mixture={shown=1.0}'
fi
for checkpoint in "$run"/checkpoints/step-* "$control"/checkpoints/step-*; do
    out=$(dirname "$(dirname "$checkpoint")")/held-out-$(basename "$checkpoint").jsonl
    "$dots" train sample "$checkpoint" data/held-out.jsonl -o "$out" --samples 16 --temperature 1 --max-tokens 8 --seed "$seed" --threads 1 2>/dev/null
    echo "$checkpoint: $(grep accept_rate "${out%.jsonl}.report.json")"
done
