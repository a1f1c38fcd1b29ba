#!/usr/bin/env bash
# Real clients against a real server: `openai` for Python and for Node, `anthropic`, schemathesis, the requests of llama.cpp's
# own tests, curl as a user pastes it, and abuse; a chat at a terminal; and what an operator does to a server.
#
#   cargo build --release && tests/clients/run.sh
#
# DOTS_BIN names the binary, target/release/dots by default. The clients are installed once, into target/clients.
set -euo pipefail
cd "$(dirname "$0")/../.."

dots=${DOTS_BIN:-target/release/dots}
cache=target/clients
# What passed, for docs/compatibility.md.
export DOTS_TEST_RESULTS=$PWD/$cache/results
export DOTS_TEST_KEY=test-key DOTS_TEST_MODEL=dots1 DOTS_TEST_CONTEXT=256

[[ -x $dots ]] || { echo "no binary at $dots: cargo build --release, or set DOTS_BIN" >&2; exit 1; }

mkdir -p "$cache/node" "$DOTS_TEST_RESULTS"
if [[ ! -x $cache/venv/bin/python ]] || ! "$cache/venv/bin/python" -c 'import openai, anthropic, schemathesis' 2>/dev/null; then
    python3 -m venv "$cache/venv"
    "$cache/venv/bin/pip" install --quiet --disable-pip-version-check openai anthropic schemathesis
fi
if [[ ! -d $cache/node/node_modules/openai ]]; then
    npm install --prefix "$cache/node" --no-fund --no-audit --silent openai
fi

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export DOTS_TEST_URL=http://127.0.0.1:$port
log=$cache/server.log
"$dots" serve tests/fixtures/goldens/hf --host 127.0.0.1 --port "$port" \
    --served-model-name "$DOTS_TEST_MODEL" --api-key "$DOTS_TEST_KEY" --max-queue 8192 >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT

for _ in $(seq 300); do
    curl --silent --fail --output /dev/null "$DOTS_TEST_URL/health" && break
    kill -0 "$server" 2>/dev/null || { echo "the server ended while starting:" >&2; cat "$log" >&2; exit 1; }
    sleep 0.1
done
curl --silent --fail --output /dev/null "$DOTS_TEST_URL/health" || { echo "no answer in 30 s:" >&2; cat "$log" >&2; exit 1; }

failed=0
# Each suite prints `NAME: N passed, N failed` and exits with 1 where one failed.
"$cache/venv/bin/python" tests/clients/test_openai.py || failed=1
"$cache/venv/bin/python" tests/clients/test_structured.py "$dots" tests/fixtures/goldens/hf || failed=1
"$cache/venv/bin/python" tests/clients/test_responses.py || failed=1
"$cache/venv/bin/python" tests/clients/test_anthropic.py || failed=1
python3 tests/clients/llama_cpp_cases.py || failed=1
bash tests/clients/schema.sh "$cache/venv/bin/schemathesis" || failed=1
# A module is looked up from where the file lies, so the test goes beside the package.
cp tests/clients/openai.test.mjs "$cache/node/"
node "$cache/node/openai.test.mjs" || failed=1
bash tests/clients/curl.sh || failed=1
python3 tests/clients/http_abuse.py || failed=1
python3 tests/clients/terminal.py "$dots" tests/fixtures/goldens/hf || failed=1
python3 tests/clients/operations.py "$dots" tests/fixtures/goldens/hf || failed=1
python3 tests/clients/soak.py "$dots" tests/fixtures/goldens/hf 15 || failed=1

kill -TERM "$server"
if wait "$server"; then
    echo "shutdown: 1 passed, 0 failed"
else
    echo "shutdown: 0 passed, 1 failed (exit code $?)"
    failed=1
fi
[[ $failed == 0 ]] || { echo "the server's log: $log" >&2; }
exit "$failed"
