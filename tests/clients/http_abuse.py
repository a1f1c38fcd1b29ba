"""What no client should send: each gets a 4xx in OpenAI's shape, and the server goes on. Standard library only."""

import http.client
import json
import socket
import urllib.parse

import suite

ADDRESS = urllib.parse.urlsplit(suite.URL)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
JSON = {"Content-Type": "application/json"}
HELLO = {"model": suite.MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
ONCE = {"model": suite.MODEL, "prompt": "x", "max_tokens": 1}


def call(method, path, body=None, headers=JSON):
    connection = http.client.HTTPConnection(ADDRESS.hostname, ADDRESS.port, timeout=60)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {suite.KEY}"} | headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def healthy():
    status, body = call("GET", "/health")
    assert status == 200 and json.loads(body)["status"] == "ok", body


def refused(status, method, path, body=None, headers=JSON):
    found, text = call(method, path, body, headers)
    assert found == status, (method, path, str(body)[:200], found, text[:500])
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert error["type"] == "invalid_request_error" and error["message"], error
    assert len(text) < 2000, len(text)
    healthy()
    return error


def test_what_is_not_json():
    for body in [
        b"",
        b"{",
        b"}",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{'model': 1}",
        b'{"model": "dots1",}',
        json.dumps(HELLO).encode()[:-1],
        json.dumps(HELLO).encode() + b"x",
        b"\x00" * 1000,
        bytes(range(256)),
        json.dumps(HELLO).encode("utf-16"),
        json.dumps(HELLO).replace('"x"', '"\xff\xfe"').encode("latin-1"),
        json.dumps(HELLO).replace('"x"', '"\\ud800"').encode(),
    ]:
        refused(400, "POST", CHAT, body)
        refused(400, "POST", COMPLETIONS, body)


def test_numbers_that_are_none():
    for number in ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "1e", "--1", '"1"', "[1]", "{}", "true"]:
        for field in ["temperature", "top_p", "presence_penalty", "min_p", "repetition_penalty", "n", "seed"]:
            body = json.dumps(HELLO)[:-1] + f', "{field}": {number}}}'
            refused(400, "POST", CHAT, body.encode())


def test_numbers_that_are_huge():
    for number in ["1e308", "-1e308", "9" * 400, "9" * 30, "-" + "9" * 30, str(2**63), str(2**64), "1e19"]:
        for field in ["temperature", "top_p", "top_k", "n", "seed", "max_tokens", "logprobs"]:
            body = json.dumps(ONCE | {field: None})[:-1] + f', "{field}": {number}}}'
            refused(400, "POST", COMPLETIONS, body.encode())


def test_wrong_types_are_named():
    of_type = {
        "string": "text",
        "number": 0.5,
        "boolean": True,
        "array": [[None]],
        "object": {"x": {"y": 1}},
    }
    fits = {
        "model": ["string"],
        "temperature": ["number"],
        "top_p": ["number"],
        "min_p": ["number"],
        "presence_penalty": ["number"],
        "frequency_penalty": ["number"],
        "repetition_penalty": ["number"],
        "top_k": [],
        "n": [],
        "seed": [],
        "max_tokens": [],
        "max_completion_tokens": [],
        "stop": ["string"],
        "stream": ["boolean"],
        "stream_options": [],
        "logit_bias": [],
    }
    chat_only = {
        "messages": [],
        "logprobs": ["boolean"],
        "top_logprobs": [],
        "tools": [],
        "tool_choice": [],
        "functions": [],
        "response_format": [],
        "audio": [],
        "modalities": [],
    }
    text_only = {"prompt": ["string"], "logprobs": [], "echo": ["boolean"], "suffix": [], "best_of": []}
    for path, good, fields in [(CHAT, HELLO, fits | chat_only), (COMPLETIONS, ONCE, fits | text_only)]:
        for field, fitting in fields.items():
            for name, value in of_type.items():
                if name in fitting:
                    continue
                error = refused(400, "POST", path, json.dumps(good | {field: value}))
                assert error["param"] and error["param"].startswith(field), (field, name, error)


def test_messages_that_are_none():
    for messages in [
        [],
        {},
        "x",
        [1],
        [None],
        [[]],
        [{}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 1}],
        [{"role": "user", "content": {}}],
        [{"role": "user", "content": [1]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
        [{"role": "", "content": "x"}],
        [{"role": "r" * 100_000, "content": "x"}],
        [{"content": "x"}],
        [{"role": "tool", "content": "x"}],
    ]:
        error = refused(400, "POST", CHAT, json.dumps(HELLO | {"messages": messages}))
        assert error["param"].startswith("messages"), error


def test_prompts_that_are_none():
    for prompt in [None, "", [], [[]], {}, 1, True, [1, "x"], ["x", 1], [[1], "x"], [-1], [1.5], [2**32], [10**6], [[None]]]:
        error = refused(400, "POST", COMPLETIONS, json.dumps(ONCE | {"prompt": prompt}))
        assert error["param"].startswith("prompt"), error


def test_nesting_without_end():
    for depth in [200, 100_000, 3_000_000]:
        for opening, closing in [("[", "]"), ('{"a":', "}")]:
            body = (opening * depth + "1" + closing * depth)[: 7 << 20]
            refused(400, "POST", CHAT, f'{{"messages": {body}}}'.encode())


def test_bodies_that_are_too_large():
    content = "x" * (10 << 20)
    for path, body in [
        (CHAT, json.dumps(HELLO | {"messages": [{"role": "user", "content": content}]})),
        (COMPLETIONS, json.dumps(ONCE | {"prompt": content})),
        (COMPLETIONS, b"\x00" * (10 << 20)),
    ]:
        refused(413, "POST", path, body)
    # Of allowed size, but far beyond the context.
    fits = "word " * (1 << 20)
    assert refused(400, "POST", COMPLETIONS, json.dumps(ONCE | {"prompt": fits}))["code"] == "context_length_exceeded"
    messages = [{"role": "user", "content": fits}]
    assert refused(400, "POST", CHAT, json.dumps(HELLO | {"messages": messages}))["code"] == "context_length_exceeded"


def test_addresses_and_methods_that_do_not_exist():
    for path in ["/v1", "/v1/", "/v1/chat", "/v1/nothing", "/v1/chat/completions/", "/v1/" + "x" * 5000, "/%ff%00", "/../etc"]:
        refused(404, "POST", path, b"{}")
        refused(404, "GET", path)
    refused(404, "GET", "/v1/models/nothing")
    refused(404, "GET", "/v1/models/%ff")
    for method, path in [("GET", CHAT), ("PUT", CHAT), ("DELETE", COMPLETIONS), ("POST", "/v1/models"), ("POST", "/health")]:
        refused(405, method, path, b"{}" if method != "GET" else None)


def test_a_model_that_does_not_exist():
    for name in ["", "gpt-4", "x" * 1_000_000, "\u0000"]:
        error = refused(404, "POST", CHAT, json.dumps(HELLO | {"model": name}))
        assert (error["code"], error["param"]) == ("model_not_found", "model"), error


def test_content_types():
    body = json.dumps(HELLO)
    for content_type in ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]:
        refused(400, "POST", CHAT, body, {"Content-Type": content_type})
    refused(400, "POST", CHAT, body, {})
    assert call("POST", CHAT, body, {"Content-Type": "Application/JSON; charset=utf-8"})[0] == 200


def test_keys_that_do_not_fit():
    for key in ["", "Bearer", "Bearer ", "Bearer x", "Basic " + suite.KEY, suite.KEY, "Bearer " + suite.KEY + "x", "Bearer " + "x" * 8000]:
        error = refused(401, "GET", "/v1/models", headers={"Authorization": key})
        assert error["code"] == "invalid_api_key", error


def test_connections_that_break_off():
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {suite.KEY}\r\nContent-Type: application/json\r\n"
    for text in ["", "\r\n", "GET", "\x00" * 100, head, head + "Content-Length: 1000\r\n\r\n{", head + "Content-Length: -1\r\n\r\n",
                 head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}"]:
        with socket.create_connection((ADDRESS.hostname, ADDRESS.port), timeout=10) as connection:
            connection.sendall(text.encode("latin-1"))
        healthy()


suite.run("abuse", globals())
