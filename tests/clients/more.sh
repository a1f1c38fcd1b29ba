#!/usr/bin/env bash
# Clients that take minutes to install: `litellm`, `langchain-openai`, `langchain-anthropic` and `lm-eval`, against a real
# server; then docs/compatibility.md from what these and `run.sh` left.
#
#   cargo build --release && tests/clients/run.sh && tests/clients/more.sh
#
# DOTS_BIN names the binary, target/release/dots by default. The clients are installed once, into target/clients.
set -euo pipefail
cd "$(dirname "$0")/../.."

dots=${DOTS_BIN:-target/release/dots}
cache=target/clients
export DOTS_TEST_RESULTS=$PWD/$cache/results
export DOTS_TEST_KEY=test-key DOTS_TEST_MODEL=dots1 DOTS_TEST_CONTEXT=256
# Nothing here may ask for anything but our server.
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 LITELLM_LOCAL_MODEL_COST_MAP=True LANGSMITH_TRACING=false

[[ -x $dots ]] || { echo "no binary at $dots: cargo build --release, or set DOTS_BIN" >&2; exit 1; }

mkdir -p "$DOTS_TEST_RESULTS"
if [[ ! -x $cache/more/bin/python ]] || ! "$cache/more/bin/python" -c 'import litellm, langchain_openai, langchain_anthropic, lm_eval' 2>/dev/null; then
    python3 -m venv "$cache/more"
    "$cache/more/bin/pip" install --quiet --disable-pip-version-check \
        litellm langchain-openai langchain-anthropic 'lm_eval[api]'
fi

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export DOTS_TEST_URL=http://127.0.0.1:$port
log=$cache/more.log
"$dots" serve tests/fixtures/goldens/hf --host 127.0.0.1 --port "$port" \
    --served-model-name "$DOTS_TEST_MODEL" --api-key "$DOTS_TEST_KEY" >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
for _ in $(seq 300); do
    curl --silent --fail --output /dev/null "$DOTS_TEST_URL/ready" && break
    kill -0 "$server" 2>/dev/null || { echo "the server ended while starting:" >&2; cat "$log" >&2; exit 1; }
    sleep 0.1
done

failed=0
for suite in litellm langchain lm_eval; do
    "$cache/more/bin/python" "tests/clients/test_$suite.py" || failed=1
done
python3 tests/clients/compatibility.py "$DOTS_TEST_RESULTS" "$("$dots" --version)" >docs/compatibility.md
exit "$failed"
