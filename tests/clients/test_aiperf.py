"""NVIDIA's load generator `aiperf` against `dots serve`: it counts what was answered, and reads the server's metrics."""

import json
import pathlib
import subprocess
import sys
import tempfile

import suite

REQUESTS = 40
AIPERF = pathlib.Path(sys.executable).with_name("aiperf")
# A relative path is taken for a name on the hub.
TOKENIZER = pathlib.Path("tests/fixtures/goldens/hf").resolve()


def profile(*flags):
    """What `aiperf profile` exports of a run of eight at once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [AIPERF, "profile", "--model", suite.MODEL, "--url", suite.URL, "--api-key", suite.KEY]
        command += ["--tokenizer", str(TOKENIZER), "--artifact-dir", folder, "--ui", "none"]
        command += ["--concurrency", "8", "--request-count", str(REQUESTS), "--isl", "40", "--osl", "16", "--extra-inputs", "ignore_eos:true", *flags]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
        found = {path.name: json.loads(path.read_text()) for path in pathlib.Path(folder).rglob("*.json")}
        return found["profile_export_aiperf.json"], found.get("server_metrics_export.json")


def is_whole(exported):
    assert exported["request_count"]["avg"] == REQUESTS, exported["request_count"]
    assert not exported["error_summary"], exported["error_summary"]


def test_streamed_chats():
    exported, metrics = profile("--endpoint-type", "chat", "--streaming")
    is_whole(exported)
    assert exported["time_to_first_token"]["count"] == REQUESTS
    assert "vllm:num_requests_running" in json.dumps(metrics), "the server's metrics are read under their names"


def test_whole_chats():
    is_whole(profile("--endpoint-type", "chat")[0])


def test_streamed_completions():
    exported, _ = profile("--endpoint-type", "completions", "--streaming")
    is_whole(exported)
    assert exported["time_to_first_token"]["count"] == REQUESTS


suite.run("aiperf", globals(), "aiperf")
