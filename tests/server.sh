# What the suites of this folder share: the binary, Python's packages, and a server of the small model. For scripts that run
# in the repository's root.

# DOTS_BIN names the binary.
dots=${DOTS_BIN:-target/release/dots}
[[ -x $dots ]] || { echo "no binary at $dots: cargo build --release, or set DOTS_BIN" >&2; exit 1; }

model=tests/fixtures/goldens/hf
export DOTS_TEST_KEY=test-key DOTS_TEST_MODEL=dots1 DOTS_TEST_CONTEXT=256

# packages FOLDER MODULES PACKAGE...: a virtual environment in which these modules can be imported, made where it is not there.
packages() {
    local folder=$1 modules=$2
    if [[ ! -x $folder/bin/python ]] || ! "$folder/bin/python" -c "import $modules" 2>/dev/null; then
        python3 -m venv "$folder"
        "$folder/bin/pip" install --quiet --disable-pip-version-check "${@:3}"
    fi
}

# serve LOG FLAG...: a server at DOTS_TEST_URL, of the process `server`, until the script ends.
serve() {
    local log=$1 port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    export DOTS_TEST_URL=http://127.0.0.1:$port
    "$dots" serve "$model" --host 127.0.0.1 --port "$port" \
        --served-model-name "$DOTS_TEST_MODEL" --api-key "$DOTS_TEST_KEY" "${@:2}" >"$log" 2>&1 &
    server=$!
    trap 'kill "$server" 2>/dev/null || true' EXIT
    for _ in $(seq 300); do
        curl --silent --fail --output /dev/null "$DOTS_TEST_URL/ready" && return
        kill -0 "$server" 2>/dev/null || { echo "the server ended while starting:" >&2; cat "$log" >&2; exit 1; }
        sleep 0.1
    done
    echo "no answer in 30 s:" >&2
    cat "$log" >&2
    exit 1
}
