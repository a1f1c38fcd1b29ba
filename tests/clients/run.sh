#!/usr/bin/env bash
# Real clients against a real server: `openai` for Python and for Node, `anthropic`, schemathesis, the requests of llama.cpp's
# own tests, curl as a user pastes it, and abuse; a chat at a terminal; and what an operator does to a server.
#
#   cargo build --release && tests/clients/run.sh
#
# DOTS_BIN names the binary, target/release/dots by default. The clients are installed once, into target/clients.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/server.sh
cache=target/clients
# What passed, for docs/compatibility.md.
export DOTS_TEST_RESULTS=$PWD/$cache/results

mkdir -p "$cache/node" "$DOTS_TEST_RESULTS"
packages "$cache/venv" 'openai, anthropic, schemathesis' openai anthropic schemathesis
if [[ ! -d $cache/node/node_modules/openai ]]; then
    npm install --prefix "$cache/node" --no-fund --no-audit --silent openai
fi

log=$cache/server.log
serve "$log" --max-queue 8192

failed=0
# Each suite prints `NAME: N passed, N failed` and exits with 1 where one failed.
"$cache/venv/bin/python" tests/clients/test_openai.py || failed=1
"$cache/venv/bin/python" tests/clients/test_structured.py "$dots" "$model" || failed=1
"$cache/venv/bin/python" tests/clients/test_responses.py || failed=1
"$cache/venv/bin/python" tests/clients/test_anthropic.py || failed=1
python3 tests/clients/llama_cpp_cases.py || failed=1
bash tests/clients/schema.sh "$cache/venv/bin/schemathesis" || failed=1
# A module is looked up from where the file lies, so the test goes beside the package.
cp tests/clients/openai.test.mjs "$cache/node/"
node "$cache/node/openai.test.mjs" || failed=1
bash tests/clients/curl.sh || failed=1
python3 tests/clients/http_abuse.py || failed=1
python3 tests/clients/terminal.py "$dots" "$model" || failed=1
python3 tests/clients/operations.py "$dots" "$model" || failed=1
python3 tests/clients/soak.py "$dots" "$model" 15 || failed=1

kill -TERM "$server"
if wait "$server"; then
    echo "shutdown: 1 passed, 0 failed"
else
    echo "shutdown: 0 passed, 1 failed (exit code $?)"
    failed=1
fi
[[ $failed == 0 ]] || { echo "the server's log: $log" >&2; }
exit "$failed"
