#!/bin/bash
# One arm: START learns TOKENS tokens, NEW of them code and the others prose, and is measured on both before and after.
#
#     arm.sh NAME START NEW_EXPERTS FREEZE NEW TOKENS RATE SEED [valid|test]
#
# NEW_EXPERTS and FREEZE as in a recipe's [model], NEW a share, RATE the highest learning rate. DOTS is the program.
set -euo pipefail
name=$1 start=$2 new_experts=$3 freeze=$4 new=$5 tokens=$6 rate=$7 seed=$8 split=${9:-valid}
mixture="new = $new"
[ "$new" = 1 ] || mixture+=", old = $(python3 -c "print(round(1 - $new, 6))")"
mkdir -p runs
cat > "runs/$name.toml" <<END
name = "$name"
seed = $seed
[model]
start = "$start"
new_experts = $new_experts
freeze = $freeze
[tokenizer]
path = "../tok"
[sources.old]
shards = ["../data/prose-train"]
[sources.new]
shards = ["../data/code-train"]
[sources.old-$split]
shards = ["../data/prose-$split"]
[sources.new-$split]
shards = ["../data/code-$split"]
[arithmetic]
precision = "bf16"
micro_batch_tokens = 4096
[[phases]]
name = "new"
tokens = $tokens
sequence_tokens = 256
batch_tokens = "4Ki"
warmup_steps = 10
learning_rate = { from = $rate, to = $(python3 -c "print($rate / 10)"), shape = "linear" }
mixture = { $mixture }
[checkpoints]
every_tokens = "100M"
keep_states = 1
[validation]
every_tokens = "100M"
tokens = "64Ki"
sources = ["old-$split", "new-$split"]
END
"${DOTS:-dots}" train "runs/$name.toml" -o "runs/$name" --threads 1 | grep validation
