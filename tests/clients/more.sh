#!/usr/bin/env bash
# Clients that take minutes to install: `litellm`, `langchain-openai`, `langchain-anthropic`, `lm-eval`, the load generator
# `aiperf`, and `async-openai` for Rust, which is built, against a real server; then docs/compatibility.md from what these and
# `run.sh` left.
#
#   cargo build --release && tests/clients/run.sh && tests/clients/more.sh
#
# DOTS_BIN names the binary, target/release/dots by default. The clients are installed once, into target/clients.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/server.sh
cache=target/clients
export DOTS_TEST_RESULTS=$PWD/$cache/results
# Nothing here may ask for anything but our server.
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 LITELLM_LOCAL_MODEL_COST_MAP=True LANGSMITH_TRACING=false

mkdir -p "$DOTS_TEST_RESULTS"
packages "$cache/more" 'litellm, langchain_openai, langchain_anthropic, lm_eval' \
    litellm langchain-openai langchain-anthropic 'lm_eval[api]'
# It has needs of its own.
packages "$cache/aiperf" aiperf aiperf

log=$cache/more.log
serve "$log"

failed=0
for suite in litellm langchain lm_eval; do
    "$cache/more/bin/python" "tests/clients/test_$suite.py" || failed=1
done
# Offline it takes a folder for a name on the hub; with a folder it asks nobody.
env -u HF_HUB_OFFLINE "$cache/aiperf/bin/python" tests/clients/test_aiperf.py || failed=1

# What tools take of a prompt is longer than the small model's context.
kill "$server"
rm -rf "$cache/longer"
cp -r "$model" "$cache/longer"
chmod -R u+w "$cache/longer"
sed -i 's/\("max_position_embeddings": \)[0-9]*/\12048/' "$cache/longer/config.json"
model=$cache/longer
serve "$log"

rust=tests/clients/async_openai
cargo build --quiet --locked --manifest-path "$rust/Cargo.toml" --target-dir "$cache/rust"
"$cache/rust/debug/dots-async-openai-test" "$(sed -n '/^name = "async-openai"$/{n;s/^version = "\(.*\)"$/\1/p}' "$rust/Cargo.lock")" || failed=1
python3 tests/clients/compatibility.py "$DOTS_TEST_RESULTS" "$("$dots" --version)" >docs/compatibility.md
exit "$failed"
