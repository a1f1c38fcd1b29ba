"""The `anthropic` package for Python against `dots serve`.

The model is a golden with random weights: what it says means nothing, but it says the same every time.
"""

import json

import anthropic

import suite

client = anthropic.Anthropic(base_url=suite.URL, api_key=suite.KEY, max_retries=0, timeout=120)
MESSAGES = [{"role": "user", "content": "Hello"}]
NEVER_END = {str(id): -100 for id in range(500, 512)}


def create(extra_body={}, **settings):
    settings = {"messages": MESSAGES, "max_tokens": 8} | settings
    # The package's newest version has no sampling settings of its own, the API has.
    settings["extra_body"] = {"temperature": 0} | extra_body
    return client.messages.create(model=suite.MODEL, **settings)


def read(message):
    """The prompt's tokens: those that were in the cache are counted apart."""
    return message.usage.input_tokens + message.usage.cache_read_input_tokens


def refused(error_class, call, **settings):
    try:
        call(**settings)
    except error_class as error:
        assert type(error) is error_class, type(error)
        assert error.body["type"] == "error" and error.body["error"]["message"], error.body
        assert error.request_id == error.body["request_id"], (error.request_id, error.body)
        return error
    raise AssertionError(f"{settings} was not refused")


def test_a_message():
    message = create(system="Be brief.", extra_body={"logit_bias": NEVER_END})
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", suite.MODEL)
    [block] = message.content
    assert block.type == "text" and block.text
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    assert message.usage.input_tokens > 0 and message.usage.output_tokens == 8
    assert message._request_id.startswith("req_")


def test_a_stream_says_what_the_whole_message_says():
    whole = create(max_tokens=16)
    with client.messages.stream(model=suite.MODEL, messages=MESSAGES, max_tokens=16, extra_body={"temperature": 0}) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == whole.content[0].text == message.content[0].text
    assert (message.stop_reason, message.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert read(message) == read(whole)
    events = [event.type for event in create(stream=True)]
    assert events[:2] == ["message_start", "content_block_start"]
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_the_stop_sequence_is_named():
    never_end = {"logit_bias": NEVER_END}
    text = create(max_tokens=24, extra_body=never_end).content[0].text
    stop = text[4:6]
    message = create(max_tokens=24, stop_sequences=["never", stop], extra_body=never_end)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert message.content[0].text == text[: text.index(stop)]


def test_an_answer_that_was_begun_goes_on():
    whole = create(max_tokens=12, extra_body={"logit_bias": NEVER_END}).content[0].text
    begun = MESSAGES + [{"role": "assistant", "content": "It is"}]
    count = client.messages.count_tokens(model=suite.MODEL, messages=begun).input_tokens
    assert count > client.messages.count_tokens(model=suite.MODEL, messages=MESSAGES).input_tokens
    message = create(messages=begun, max_tokens=12)
    assert read(message) == count
    assert whole


def test_blocks_and_system_blocks_are_understood():
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}]}]
    assert create(messages=blocks).content == create().content
    system = [{"type": "text", "text": "Be brief."}]
    assert create(system=system).content == create(system="Be brief.").content


def test_tokens_are_counted():
    count = client.messages.count_tokens(model=suite.MODEL, system="Be brief.", messages=MESSAGES)
    assert count.input_tokens == read(create(system="Be brief."))


SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Bern"]}}, "required": ["city"], "additionalProperties": False}


def test_an_answer_keeps_to_a_schema():
    format = {"type": "json_schema", "schema": SCHEMA}
    message = create(max_tokens=64, output_config={"format": format})
    assert json.loads(message.content[0].text)["city"] in ("Oslo", "Bern")


def test_errors_are_of_their_classes():
    for settings, word in [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"temperature": 2}}, "temperature"),
        ({"extra_body": {"top_k": -1}}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"max_tokens": 10 * suite.CONTEXT}, "context"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
    ]:
        error = refused(anthropic.BadRequestError, create, **settings)
        assert error.body["error"]["type"] == "invalid_request_error" and word in error.body["error"]["message"]
    error = refused(anthropic.NotFoundError, client.messages.create, model="no", messages=MESSAGES, max_tokens=1)
    assert error.body["error"]["type"] == "not_found_error"
    stranger = client.with_options(api_key="wrong")
    error = refused(anthropic.AuthenticationError, stranger.messages.create, model=suite.MODEL, messages=MESSAGES, max_tokens=1)
    assert error.body["error"]["type"] == "authentication_error"


def test_a_bearer_token_is_a_key_too():
    other = anthropic.Anthropic(base_url=suite.URL, auth_token=suite.KEY, max_retries=0)
    assert other.messages.create(model=suite.MODEL, messages=MESSAGES, max_tokens=1).type == "message"


suite.run("anthropic for Python", globals(), "anthropic")
