"""The requests that llama.cpp's own server tests send to the endpoints that both servers have, as a list of cases.

Ported from tools/server/tests/unit of llama.cpp (MIT). What is checked of the answer is what those tests check, where it
does not depend on their model; where this server means to answer otherwise, the case says why.
"""

import base64
import json
import math
import struct
import urllib.error
import urllib.request

import suite

BOOK = [{"role": "system", "content": "Book"}, {"role": "user", "content": "What is the best book"}]
PARTS = [{"type": "text", "text": "What is"}, {"type": "text", "text": "the best book"}]
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, COUNT, EMBEDDINGS = "/v1/messages", "/v1/messages/count_tokens", "/v1/embeddings"
USER = [{"role": "user", "content": "Hello"}]
TOO_LONG = BOOK * 100
LIFE = "I believe the meaning of life is"


def said(answer):
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant" and choice["finish_reason"] in ("stop", "length")


def two_are_said(answer):
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]


def completed(answer):
    assert "cmpl" in answer["id"] and answer["usage"]["completion_tokens"] <= 8
    assert answer["choices"][0]["text"] is not None


def ten_best(answer):
    for token in answer["choices"][0]["logprobs"]["content"]:
        assert len(token["top_logprobs"]) == 10 and token["logprob"] <= 0


def is_message(answer):
    assert (answer["type"], answer["role"]) == ("message", "assistant")
    assert isinstance(answer["content"], list) and answer["content"]
    assert answer["stop_reason"] in ("end_turn", "max_tokens", "stop_sequence")
    assert answer["usage"]["input_tokens"] > 0 and answer["usage"]["output_tokens"] > 0


def counted(answer):
    assert answer["input_tokens"] > 0 and "output_tokens" not in answer


def responded(answer):
    assert answer["id"].startswith("resp_") and answer["output"][0]["id"].startswith("msg_")


def vectors(count):
    def check(answer):
        assert len(answer["data"]) == count
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
        for item in answer["data"]:
            vector = item["embedding"]
            if isinstance(vector, str):
                raw = base64.b64decode(vector)
                vector = struct.unpack(f"<{len(raw) // 4}f", raw)
            assert abs(math.fsum(x * x for x in vector) - 1) < 1e-3
    return check


def chat(messages=BOOK, **settings):
    return {"model": suite.MODEL, "max_tokens": 8, "messages": messages} | settings


def message(messages=USER, **settings):
    return {"model": suite.MODEL, "max_tokens": 20, "messages": messages} | settings


# name, path, body, status, what is checked of the answer
CASES = [
    ("test_chat_completion", CHAT, chat(), 200, said),
    ("test_chat_completion (no model)", CHAT, {"max_tokens": 8, "messages": BOOK}, 200, said),
    ("test_chat_completion (model null)", CHAT, chat(model=None), 200, said),
    ("test_chat_completion (parts)", CHAT, chat([BOOK[0], {"role": "user", "content": PARTS}]), 200, said),
    ("test_chat_completion_with_openai_library", CHAT, chat(seed=42, temperature=0.8), 200, said),
    ("test_chat_template_assistant_prefill", CHAT,
     chat([*BOOK, {"role": "assistant", "content": "Whill"}], continue_final_message=True), 200, said),
    ("test_chat_template_assistant_prefill (parts)", CHAT,
     chat([*BOOK, {"role": "assistant", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "ill"}]}],
          continue_final_message=True), 200, said),
    ("test_chat_template_continue_final_message_vllm_compat", CHAT,
     chat([*BOOK, {"role": "assistant", "content": "Whill"}], add_generation_prompt=False, continue_final_message=True),
     200, said),
    ("test_chat_template_continue_final_message_mutual_exclusion", CHAT,
     chat([*USER, {"role": "assistant", "content": "Hello"}], add_generation_prompt=True, continue_final_message=True),
     400, None),
    ("test_invalid_chat_completion_req (None)", CHAT, chat(None), 400, None),
    ("test_invalid_chat_completion_req (string)", CHAT, chat("string"), 400, None),
    ("test_invalid_chat_completion_req ([123])", CHAT, chat([123]), 400, None),
    ("test_invalid_chat_completion_req (no content)", CHAT, chat([{"role": "system"}]), 400, None),
    ("test_invalid_chat_completion_req (content is a number)", CHAT, chat([{"role": "system", "content": 123}]), 400, None),
    ("test_invalid_chat_completion_req (content is no text)", CHAT,
     chat([{"role": "system", "content": {"text": "x"}}]), 400, None),
    ("test_invalid_chat_completion_req (no role)", CHAT, chat([{"content": "test"}]), 400, None),
    ("test_chat_completion_with_timings_per_token", CHAT, chat(USER, timings_per_token=True), 200, said),
    ("test_logprobs", CHAT, chat(temperature=0.0, logprobs=True, top_logprobs=10), 200, ten_best),
    ("test_logit_bias", CHAT, chat(temperature=0.0, logit_bias={"33": -100}), 200, said),
    ("test_context_size_exceeded", CHAT, chat(TOO_LONG), 400, None),
    ("test_context_size_exceeded_stream", CHAT, chat(TOO_LONG, stream=True), 400, None),
    ("test_standard_openai_parameters (n)", CHAT, chat(n=2, id_slot=0), 200, two_are_said),
    ("test_completion_with_openai_library", COMPLETIONS,
     {"model": suite.MODEL, "prompt": LIFE, "max_tokens": 8}, 200, completed),
    ("test_completion_with_openai_library_stops", COMPLETIONS,
     {"model": suite.MODEL, "prompt": "User:\nTell me a joke.\n", "stop": ["User:\n", "Assistant:\n"], "max_tokens": 8},
     200, completed),
    ("test_completion (token ids)", COMPLETIONS, {"prompt": [1, 2, 3, 4], "max_tokens": 8}, 200, completed),
    ("test_completion (empty prompt is refused here)", COMPLETIONS, {"prompt": "", "max_tokens": 8}, 400, None),
    ("test_responses_with_openai_library", RESPONSES,
     {"model": suite.MODEL, "input": BOOK, "max_output_tokens": 8, "temperature": 0.8}, 200, responded),
    ("test_responses_stream_with_llama_telemetry (not streamed)", RESPONSES,
     {"input": "This is a test" * 10, "max_output_tokens": 8, "timings_per_token": True}, 200, responded),
    ("test_anthropic_messages_basic", MESSAGES, message(), 200, is_message),
    ("test_anthropic_messages_with_system", MESSAGES, message(system="You are a helpful assistant."), 200, is_message),
    ("test_anthropic_messages_multipart_content", MESSAGES, message([{"role": "user", "content": PARTS}]), 200, is_message),
    ("test_anthropic_messages_conversation", MESSAGES,
     message([*USER, {"role": "assistant", "content": "Hi there!"}, {"role": "user", "content": "How are you?"}]),
     200, is_message),
    ("test_anthropic_count_tokens", COUNT, {"model": suite.MODEL, "messages": USER}, 200, counted),
    ("test_anthropic_count_tokens_with_system", COUNT, {"system": "You are helpful.", "messages": USER}, 200, counted),
    ("test_anthropic_stop_sequences", MESSAGES, message(stop_sequences=["\n", "END"]), 200, is_message),
    ("test_anthropic_temperature", MESSAGES, message(temperature=0.5), 200, is_message),
    ("test_anthropic_top_p", MESSAGES, message(top_p=0.9), 200, is_message),
    ("test_anthropic_top_k", MESSAGES, message(top_k=40), 200, is_message),
    ("test_anthropic_missing_messages", MESSAGES, {"model": suite.MODEL, "max_tokens": 50}, 400, None),
    ("test_anthropic_empty_messages (refused here, as by Anthropic)", MESSAGES, message([]), 400, None),
    ("test_anthropic_thinking (refused here: the model has none)", MESSAGES,
     message(thinking={"type": "enabled", "budget_tokens": 50}), 400, None),
    ("test_anthropic_metadata", MESSAGES, message(metadata={"user_id": "test_user_123"}), 200, is_message),
    ("test_anthropic_vision_format_accepted (refused here: the model reads text)", MESSAGES,
     message([{"role": "user", "content": [{"type": "image", "source": {"type": "base64", "data": "AAAA"}}]}]), 400, None),
    ("test_embedding_single", EMBEDDINGS, {"input": LIFE}, 200, vectors(1)),
    ("test_embedding_multiple", EMBEDDINGS, {"input": [LIFE, "Write a joke", "This is a test", "another"]}, 200, vectors(4)),
    ("test_embedding_mixed_input (ids)", EMBEDDINGS, {"input": [12, 34, 56]}, 200, vectors(1)),
    ("test_embedding_mixed_input (lists of ids)", EMBEDDINGS, {"input": [[12, 34, 56], [12, 34, 56]]}, 200, vectors(2)),
    ("test_embedding_invalid_input (empty)", EMBEDDINGS, {"input": []}, 400, None),
    ("test_embedding_invalid_input (object)", EMBEDDINGS, {"input": {"content": "string"}}, 400, None),
    ("test_embedding_pooling_mean", EMBEDDINGS, {"input": LIFE, "pooling": "mean"}, 200, vectors(1)),
    ("test_embedding_pooling_none_oai", EMBEDDINGS, {"input": LIFE, "pooling": "none"}, 400, None),
    ("test_embedding_error_prompt_too_long", EMBEDDINGS, {"input": "This is a test " * 512}, 400, None),
    ("test_embedding_openai_library_base64", EMBEDDINGS, {"input": LIFE, "encoding_format": "base64"}, 200, vectors(1)),
]


def call(path, body):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {suite.KEY}"}
    request = urllib.request.Request(suite.URL + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_of(path, body, status, check):
    def test():
        found, answer = call(path, body)
        assert found == status, (found, answer)
        assert (status == 200) == ("error" not in answer or answer["error"] is None), answer
        if check:
            check(answer)
    return test


def streamed(path, body):
    def test():
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {suite.KEY}"}
        request = urllib.request.Request(suite.URL + path, json.dumps(body | {"stream": True}).encode(), headers)
        with urllib.request.urlopen(request, timeout=120) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            events = response.read().decode().split("\n\n")
        data = [line[6:] for event in events for line in event.split("\n") if line.startswith("data: ")]
        parsed = [json.loads(line) for line in data if line != "[DONE]"]
        assert len(parsed) > 1 and not any(event.get("error") for event in parsed), parsed
    return test


TESTS = {f"test {name}": test_of(*case) for name, *case in CASES}
STREAMED = [
    ("test_chat_completion_stream", CHAT, chat()),
    ("test_completion_stream_with_openai_library", COMPLETIONS, {"prompt": LIFE, "max_tokens": 8}),
    ("test_responses_stream_with_openai_library", RESPONSES, {"input": BOOK, "max_output_tokens": 8}),
    ("test_anthropic_messages_streaming", MESSAGES, message()),
]
TESTS |= {f"test {name}": streamed(path, body) for name, path, body in STREAMED}

suite.run("llama.cpp's requests", {name.replace("test test_", "test_", 1): test for name, test in TESTS.items()})
