#!/usr/bin/env bash
# The README's calls as a user pastes them, with this run's address, name and key put in.
set -uo pipefail
# `check` counts, so it must run in this shell although it ends a pipe.
shopt -s lastpipe

passed=0 failed=0
auth="Authorization: Bearer $DOTS_TEST_KEY"

# check NAME EXPRESSION: the expression, in Python, must hold of `text`, and of `answer` where the text is JSON.
check() {
    if DOTS_CHECK=$2 python3 -c '
import json, os, sys
text = sys.stdin.read()
try:
    answer = json.loads(text)
except ValueError:
    answer = None
expression = os.environ["DOTS_CHECK"]
sys.exit(0 if eval(expression) else f"expected {expression}, found: {text[:2000]}")'; then
        passed=$((passed + 1))
    else
        echo "curl: $1 failed" >&2
        failed=$((failed + 1))
    fi
}

curl -s "$DOTS_TEST_URL/v1/chat/completions" -H 'Content-Type: application/json' -H "$auth" \
    -d '{"model": "dots1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}' |
    check 'a chat' 'answer["choices"][0]["message"]["role"] == "assistant"'

curl -sN "$DOTS_TEST_URL/v1/chat/completions" -H 'Content-Type: application/json' -H "$auth" \
    -d '{"model": "dots1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": true}' |
    check 'a streamed chat' 'text.startswith("data: {") and text.endswith("\n\ndata: [DONE]\n\n")'

curl -s "$DOTS_TEST_URL/v1/completions" -H 'Content-Type: application/json' -H "$auth" \
    -d '{"model": "dots1", "prompt": "Once upon a time", "max_tokens": 16}' |
    check 'a completion' 'isinstance(answer["choices"][0]["text"], str)'

curl -s "$DOTS_TEST_URL/v1/models" -H "$auth" |
    check 'the models' '[model["id"] for model in answer["data"]] == ["dots1"]'

curl -s "$DOTS_TEST_URL/health" | check 'health' 'answer["status"] == "ok"'
curl -s "$DOTS_TEST_URL/version" | check 'the version' 'answer["version"]'

curl -s "$DOTS_TEST_URL/v1/models" | check 'no key' 'answer["error"]["code"] == "invalid_api_key"'

# Whoever forgets the header sends a form.
curl -s "$DOTS_TEST_URL/v1/chat/completions" -H "$auth" -d '{"messages": [{"role": "user", "content": "Hello"}]}' |
    check 'a forgotten header' '"application/json" in answer["error"]["message"]'

head -c 10000000 /dev/zero | tr '\0' ' ' |
    curl -s "$DOTS_TEST_URL/v1/completions" -H 'Content-Type: application/json' -H "$auth" --data-binary @- -w '\n%{http_code}' |
    check 'ten megabytes' 'text.endswith("\n413") and "\"request_too_large\"" in text'

echo "curl: $passed passed, $failed failed"
[[ $failed == 0 ]]
