"""What an operator does to a server: TLS, a thousand open streams, clients that do not read or do not send, SIGTERM under
load. Starts its own servers; standard library, curl and openssl.

    python3 tests/clients/operations.py target/release/dots tests/fixtures/goldens/hf
"""

import contextlib
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request

DOTS, MODEL = sys.argv[1:3]
STREAMS = 1000
# Beside the weights.
MOST_BYTES = 300_000_000
# One token a step: the model is tiny, and answers would end before anyone looks.
SLOW = ["--max-batch-tokens", 1]


class Server:
    """A server of our own, with these flags."""

    def __init__(self, *flags, env=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = tempfile.TemporaryFile("w+")
        command = [DOTS, "serve", MODEL, "--port", str(self.port), "--served-model-name", "dots1", *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log, env=os.environ | (env or {}))
        deadline = time.monotonic() + 60
        while not self.listens():
            assert self.process.poll() is None and time.monotonic() < deadline, self.words()
            time.sleep(0.05)

    def listens(self):
        try:
            self.connect().close()
        except OSError:
            return False
        # The port is taken before the model is loaded: what is asked then waits in the system's queue.
        return "Serving " in self.words()

    def words(self):
        # Through a file of its own, since the server writes where the shared offset stands.
        with open(f"/proc/self/fd/{self.log.fileno()}") as log:
            return log.read()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def get(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def response(self, method, path="", **fields):
        body = json.dumps(fields).encode() if fields else None
        url, headers = f"http://127.0.0.1:{self.port}/v1/responses{path}", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=60) as answer:
            return json.load(answer)

    def metric(self, name):
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def wait_for(self, what, holds, seconds=30):
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not in {seconds} s; {self.words()[-2000:]}"
            time.sleep(0.05)

    def stream(self, receive_bytes=None, **fields):
        """A streamed completion, asked for and not read."""
        body = json.dumps({"model": "dots1", "prompt": "Once upon a time", "stream": True} | fields)
        connection = socket.socket()
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", self.port))
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        return connection

    def anonymous_bytes(self):
        """Memory that was taken; weights are mapped and count as the file's."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    def end(self, seconds=60):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextlib.contextmanager
def serving(*flags, env=None):
    server = Server(*flags, env=env)
    try:
        yield server
        assert server.process.poll() is not None or server.end() == 0, server.words()
        assert "panicked" not in server.words(), server.words()
    finally:
        server.process.kill()
        server.process.wait()


def rest(connection):
    """All that comes until the connection is closed."""
    text = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1 << 16):
            text += piece
    return text.decode(errors="replace")


def test_tls_with_a_certificate_of_our_own():
    with tempfile.TemporaryDirectory() as folder:
        cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
            check=True, capture_output=True,
        )
        with serving("--tls-cert", cert, "--tls-key", key) as server:
            url = f"https://localhost:{server.port}"
            curl = ["curl", "-sS", "--fail-with-body", "--cacert", cert, "--resolve", f"localhost:{server.port}:127.0.0.1"]
            answer = subprocess.run([*curl, f"{url}/v1/models"], check=True, capture_output=True, text=True).stdout
            assert json.loads(answer)["data"][0]["id"] == "dots1", answer
            body = json.dumps({"model": "dots1", "prompt": "Once", "max_tokens": 8, "stream": True})
            command = [*curl, "-N", f"{url}/v1/completions", "-H", "Content-Type: application/json", "-d", body]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            assert answer.endswith("data: [DONE]\n\n"), answer
            for old in ["--tlsv1.1 --tls-max 1.1", "--tlsv1.2 --tls-max 1.2", "--tlsv1.3"]:
                command = [*curl, *old.split(), f"{url}/health"]
                ok = subprocess.run(command, capture_output=True).returncode == 0
                assert ok == ("1.1" not in old), old
            assert subprocess.run(["curl", "-s", f"http://localhost:{server.port}/health"]).returncode != 0
            # The same files again, as after a renewal.
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("the certificate", lambda: "Read the certificate." in server.words())
            subprocess.run([*curl, f"{url}/health"], check=True, capture_output=True)


def test_a_thousand_open_streams():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * STREAMS), hard))
    # Ours is what the server inherits: it must ask for more by itself.
    with serving(*QUEUE) as server:
        before = server.anonymous_bytes()
        streams = [server.stream(max_tokens=200) for _ in range(STREAMS)]
        heads = [stream.recv(15) for stream in streams]
        assert all(head == b"HTTP/1.1 200 OK" for head in heads), set(heads)
        taken, most = server.anonymous_bytes() - before, server.anonymous_bytes()
        open_now = server.metric("dots:connections ")
        print(f"operations: {open_now:.0f} connections, {taken / 1e6:.1f} MB for them, {most / 1e6:.1f} MB beside the weights",
              flush=True)
        assert open_now > STREAMS, open_now
        assert most < MOST_BYTES, most
        for stream in streams:
            stream.close()
        server.wait_for("all to be cancelled", lambda: server.metric("vllm:num_requests_") == 0, 120)
        server.wait_for("all to be closed", lambda: server.metric("dots:connections ") < 5)


def test_a_client_that_does_not_read():
    with serving("--stream-stall-seconds", 1) as server:
        # Sixteen answers at once, with the likeliest tokens of each: more than the system's buffers hold.
        stream = server.stream(receive_bytes=4096, n=16, max_tokens=240, logprobs=5, ignore_eos=True)
        server.wait_for("it to be cut", lambda: server.metric("dots:connections_stalled_total") == 1)
        server.wait_for("its answers to be cancelled", lambda: server.metric("vllm:num_requests_running") == 0)
        server.wait_for("its line", lambda: "does not read" in server.words())
        assert server.get("/health")[0] == 200
        stream.close()


def test_heads_that_are_floods_or_do_not_come():
    with serving("--read-timeout-seconds", 1) as server:
        for head, status in [
            ("".join(f"X-{i}: y\r\n" for i in range(1000)), "431"),
            ("X: " + "y" * 100_000 + "\r\n", "431"),
            ("X: " + "y" * 10_000_000, "431"),
        ]:
            connection = server.connect()
            with contextlib.suppress(ConnectionError):
                connection.sendall(f"GET /health HTTP/1.1\r\nHost: localhost\r\n{head}".encode())
            answer = rest(connection)
            assert answer == "" or status in answer[:15], answer[:100]
        slow = [server.connect() for _ in range(200)]
        for connection in slow:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: ")
        began = time.monotonic()
        assert server.get("/health")[0] == 200
        for connection in slow:
            rest(connection)
        assert time.monotonic() - began < 45
        server.wait_for("all to be closed", lambda: server.metric("dots:connections ") < 5)


def test_every_line_about_a_request_has_its_id():
    with serving("--log-format", "json", env={"DOTS_LOG": "info,dots_engine=debug"}) as server:
        for name in ["first", "second"]:
            body = json.dumps({"model": "dots1", "prompt": f"The {name} of two", "max_tokens": 4, "ignore_eos": True}).encode()
            headers = {"Content-Type": "application/json", "X-Request-Id": name}
            with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/completions", body, headers)) as answer:
                assert answer.headers["X-Request-Id"] == name
        server.wait_for("their lines", lambda: server.words().count('"second"') > 2)
        lines = [json.loads(line) for line in server.words().splitlines() if line.startswith("{")]
        for name in ["first", "second"]:
            said = [line.get("message", "access") for line in lines if line.get("span", {}).get("id") == name]
            assert sorted(said) == ["access", "begins", "ends"], (said, lines)


def test_sigterm_lets_answers_end():
    with serving(*SLOW) as server:
        streams = [server.stream(max_tokens=200, ignore_eos=True) for _ in range(32)]
        for stream in streams:
            stream.recv(1)
        server.process.send_signal(signal.SIGTERM)
        # While they run, whoever asks is told, as soon as the signal has arrived.
        server.wait_for("it to be no longer ready", lambda: server.get("/ready")[0] == 503)
        assert server.get("/health")[0] == 200
        for stream in streams:
            text = rest(stream)
            assert text.rstrip().endswith("data: [DONE]\n\n\r\n0") and '"error"' not in text, text[-500:]
            assert text.count('"finish_reason":"') == 1, text[-500:]
        assert server.process.wait(20) == 0, server.words()


def test_sigterm_lets_responses_in_the_background_end_and_be_read():
    with serving(*SLOW) as server:
        ask = {"input": "Once upon a time", "background": True, "max_output_tokens": 200, "ignore_eos": True}
        # More than run at once, so that they take longer than to ask.
        begun = [server.response("POST", **ask) for _ in range(48)]
        assert {response["status"] for response in begun} == {"queued"}, begun
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("it to be no longer ready", lambda: server.get("/ready")[0] == 503)
        cancelled = server.response("POST", f"/{begun.pop()['id']}/cancel")
        assert cancelled["status"] == "cancelled", cancelled
        # Answers that have ended are still there, whenever somebody asks.
        server.wait_for("all to end", lambda: server.metric("vllm:num_requests_") == 0)
        for response in begun:
            assert server.process.poll() is None
            ended = server.response("GET", f"/{response['id']}")
            assert (ended["status"], ended["usage"]["output_tokens"]) == ("incomplete", 200), ended
        assert server.process.wait(20) == 0, server.words()


def test_sigterm_cuts_what_does_not_end():
    with serving("--drain-seconds", 0, *SLOW, *QUEUE) as server:
        # More than run at once, so that some wait, and longer than it takes to ask.
        streams = [server.stream(n=4, max_tokens=240, ignore_eos=True) for _ in range(64)]
        for stream in streams:
            stream.recv(1)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        texts = [rest(stream) for stream in streams]
        cut = sum('"code":"service_unavailable"' in text for text in texts)
        assert cut > 0 and all("data: [DONE]" in text for text in texts), (cut, texts[-1][-500:])
        assert server.process.wait(20) == 0, server.words()
        assert time.monotonic() - began < 40


def test_a_second_signal_stops_at_once():
    with serving(*SLOW) as server:
        # Enough to run for many seconds, so that the second comes before they have ended.
        streams = [server.stream(n=16, max_tokens=240, ignore_eos=True) for _ in range(64)]
        for stream in streams:
            stream.recv(1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("the first", lambda: "Once more stops at once" in server.words())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 130


# A server whose queue is bounded must be told of a thousand.
HELP = subprocess.run([DOTS, "serve", "--help"], capture_output=True, text=True, check=True).stdout
QUEUE = ["--max-queue", 2 * STREAMS] if "--max-queue" in HELP else []

os.environ.pop("DOTS_API_KEY", None)
passed = failed = 0
for name, test in list(globals().items()):
    if not name.startswith("test_"):
        continue
    try:
        test()
        passed += 1
    except Exception:
        failed += 1
        print(f"operations: {name} failed", file=sys.stderr)
        traceback.print_exc()
print(f"operations: {passed} passed, {failed} failed", flush=True)
sys.exit(1 if failed or not passed else 0)
