#!/usr/bin/env bash
# The page at `/` in a real browser: its parts in Node, the page over made answers, and over a real server; and
# the page of `dots watch` over made runs.
#
#   cargo build --release && tests/page/run.sh [WORD...]
#
# DOTS_BIN names the binary, target/release/dots by default. With words, only the browser's tests whose names have one run.
# The tools are installed once, into target/page; the browser is Debian's, installed where none is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/server.sh
cache=target/page

mkdir -p "$cache/node" "$cache/modules"
packages "$cache/venv" playwright playwright
if [[ ! -d $cache/node/node_modules/axe-core ]]; then
    npm install --prefix "$cache/node" --no-fund --no-audit --silent axe-core
fi
if ! "$cache/venv/bin/python" tests/page/browser.py; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium-headless-shell >/dev/null
fi
export AXE_JS=$PWD/$cache/node/node_modules/axe-core/axe.min.js

failed=0
# The page's scripts are modules; Node is told so by a file that the page has no use for.
cp crates/server/src/page/*.js crates/server/src/watch/page/scale.js tests/page/*.test.mjs "$cache/modules/"
echo '{"type": "module"}' >"$cache/modules/package.json"
for test in tests/page/*.test.mjs; do
    name=$(basename "$test" .test.mjs)
    timeout 60 node --test --test-reporter=tap "$cache/modules/$name.test.mjs" >"$cache/$name.log" 2>&1 || { failed=1; cat "$cache/$name.log" >&2; }
    count() { sed -n "s/^# $1 //p" "$cache/$name.log"; }
    echo "page-$name: $(count pass) passed, $(count fail) failed"
done

serve "$cache/server.log"

for test in tests/page/test_*.py; do
    DOTS_BIN=$dots "$cache/venv/bin/python" "$test" "$@" || failed=1
done
exit "$failed"
