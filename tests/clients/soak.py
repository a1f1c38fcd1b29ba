"""A server at saturation, with clients that cancel, hang up and send nonsense, for as long as is asked; then SIGTERM under load.

    python3 tests/clients/soak.py target/release/dots MODEL [SECONDS [USERS [FLAGS OF dots serve ...]]]

Holds the server to: every whole answer is the one that the same request got alone, token for token, streamed or not; memory that is
taken after a fifth of the time has grown by less than 2 % at the end; at the end no request, no cache block and no connection is
held; no panic and no error in the log; after SIGTERM every answer is whole or told that it was cut, and the exit code is 0.
Standard library only.
"""

import asyncio
import collections
import json
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

DOTS, MODEL = sys.argv[1:3]
SECONDS = float(sys.argv[3]) if len(sys.argv) > 3 else 60
USERS = int(sys.argv[4]) if len(sys.argv) > 4 else 48
FLAGS = sys.argv[5:]
# Short runs end before the allocator's pools have settled.
SLACK_BYTES = 4 << 20
REFERENCES = 24

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
did = collections.Counter()


async def send(method, path, body, headers="Content-Type: application/json\r\n"):
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    return reader, writer


async def whole(method, path, body=b"", **more):
    reader, writer = await send(method, path, body, **more)
    try:
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        body = b"".join(pieces(body))
    return int(head[9:12]) if head else 0, body


def pieces(chunked):
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        length = int(size, 16)
        yield chunked[:length]
        chunked = chunked[length + 2 :]


def request(i):
    """One of a few requests, each with its own seed, some of which share the beginning of their prompts."""
    draw = random.Random(i)
    words = " ".join(draw.choice(["early", "bird", "worm", "night", "tea", "ship"]) for _ in range(draw.randrange(1, 24)))
    prompt = ("You are a helpful assistant. " if i % 3 == 0 else "") + words
    return {"prompt": prompt, "seed": i, "max_tokens": draw.randrange(1, 48), "temperature": draw.choice([0, 0.7, 1])}


def parse(stream):
    """Text, reason and error of a streamed answer."""
    text, reason, error = "", None, None
    events = [event.removeprefix("data: ") for event in stream.decode().split("\n\n") if event.startswith("data: ")]
    assert events and events[-1] == "[DONE]", stream[-500:]
    for event in map(json.loads, events[:-1]):
        if "error" in event:
            error = event["error"]["code"]
            continue
        choice = event["choices"][0]
        assert reason is None, "an event after the last one"
        text += choice["text"]
        reason = choice["finish_reason"]
    return text, reason, error


async def alone(i):
    status, body = await whole("POST", "/v1/completions", json.dumps(request(i)).encode())
    assert status == 200, body
    choice = json.loads(body)["choices"][0]
    return choice["text"], choice["finish_reason"]


async def answered(draw, references, stopping):
    i = draw.randrange(REFERENCES)
    streamed = draw.random() < 0.8
    status, body = await whole("POST", "/v1/completions", json.dumps(request(i) | {"stream": streamed}).encode())
    if stopping() and status in (0, 503):
        did["refused while stopping"] += 1
        return
    assert status in (200, 429), (status, body[:500])
    if status == 429:
        did["refused, queue full"] += 1
        await asyncio.sleep(0.05)
        return
    if streamed:
        text, reason, error = parse(body)
        if error:
            assert stopping() and error == "service_unavailable", error
            did["cut while stopping"] += 1
            return
    else:
        choice = json.loads(body)["choices"][0]
        text, reason = choice["text"], choice["finish_reason"]
    assert (text, reason) == references[i], f"request {i}: {text!r} ({reason}) is not {references[i]!r}"
    did["streamed" if streamed else "whole"] += 1


async def cancelled(draw):
    body = json.dumps(request(draw.randrange(REFERENCES)) | {"stream": draw.random() < 0.7, "n": draw.choice([1, 1, 3])})
    reader, writer = await send("POST", "/v1/completions", body.encode())
    if draw.random() < 0.7:
        await reader.read(draw.randrange(1, 2000))
    if draw.random() < 0.3:
        # A reset rather than an end.
        writer.transport.abort()
    writer.close()
    did["cancelled"] += 1


async def nonsense(draw, stopping):
    bodies = [b"", b"{", b"\xff" * 99, b'{"prompt": 7}', b'{"prompt": "x", "n": 0}', b'{"prompt": "x", "max_tokens": 9999999}',
              b'{"prompt": ' + b"[" * 9999, b'{"prompt": "x", "temperature": 1e999}', b'{"prompt": [999999999]}']
    path = draw.choice(["/v1/completions", "/v1/chat/completions", "/v1/nothing", "/%ff"])
    headers = draw.choice(["Content-Type: application/json\r\n", "", "Content-Type: text/plain\r\n", "X: " + "y" * 99999 + "\r\n"])
    status, body = await whole(draw.choice(["POST", "POST", "GET", "BREW"]), path, draw.choice(bodies), headers=headers)
    assert status == 0 or 400 <= status < 500 or (stopping() and status == 503), (status, body[:500])
    did["nonsense"] += 1


async def user(number, references, until, stopping):
    draw = random.Random(number)
    while not until():
        try:
            action = draw.random()
            if action < 0.65:
                await answered(draw, references, stopping)
            elif action < 0.9:
                await cancelled(draw)
            else:
                await nonsense(draw, stopping)
        except ConnectionError:
            # A head that is refused is not read to its end.
            did["connection closed"] += 1
            if stopping():
                return


async def metrics():
    _, text = await whole("GET", "/metrics")
    values = collections.Counter()
    for line in text.decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            values[name.partition("{")[0]] += float(value)
    return values


def taken(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


async def soak(process, words):
    references = [await alone(i) for i in range(REFERENCES)]
    end = time.monotonic() + SECONDS
    stopping = False
    users = [
        asyncio.create_task(user(i, references, lambda: time.monotonic() > end, lambda: stopping)) for i in range(USERS)
    ]
    await asyncio.wait(users, timeout=SECONDS / 5, return_when=asyncio.FIRST_EXCEPTION)
    early = taken(process)
    await asyncio.gather(*users)
    deadline = time.monotonic() + 60
    while True:
        now = await metrics()
        if now["vllm:num_requests_running"] == now["vllm:num_requests_waiting"] == 0 and now["dots:connections"] <= 1:
            break
        assert time.monotonic() < deadline, "something is held after the last client has gone"
        await asyncio.sleep(0.1)
    assert now["vllm:kv_cache_usage_perc"] == 0, "cache blocks are lost"
    late = taken(process)
    print(f"soak: {SECONDS:.0f} s, {USERS} users: " + ", ".join(f"{count} {what}" for what, count in sorted(did.items())))
    print(f"soak: {early / 1e6:.1f} MB taken after a fifth of it, {late / 1e6:.1f} MB at the end", flush=True)
    assert late < max(early * 1.02, early + SLACK_BYTES), "memory grows"

    users = [asyncio.create_task(user(i, references, lambda: False, lambda: stopping)) for i in range(USERS)]
    await asyncio.sleep(min(5, SECONDS / 4))
    # What comes from here on may be an end.
    stopping = True
    process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.wait, 60)
    done, pending = await asyncio.wait(users, timeout=30)
    assert not pending, "a client is left waiting"
    for task in done:
        task.result()
    assert code == 0, code
    for bad in ["panicked", "ERROR"]:
        lines = [line for line in words().splitlines() if bad in line]
        assert not lines, lines[:5]
    print("soak: 1 passed, 0 failed")


def main():
    with tempfile.NamedTemporaryFile() as log:
        command = [DOTS, "serve", MODEL, "--port", str(PORT), "--drain-seconds", "5", *FLAGS]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)

        def words():
            return pathlib.Path(log.name).read_text(errors="replace")

        try:
            while "Serving " not in words():
                assert process.poll() is None, words()
                time.sleep(0.05)
            asyncio.run(soak(process, words))
        except BaseException:
            print(words()[-2000:], file=sys.stderr)
            raise
        finally:
            process.kill()
            process.wait()


main()
