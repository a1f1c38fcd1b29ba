"""The Responses API of the `openai` package for Python against `dots serve`."""

import json
import time

import openai

import suite

client = openai.OpenAI(base_url=f"{suite.URL}/v1", api_key=suite.KEY, max_retries=0, timeout=120)
NEVER_END = {"logit_bias": {str(id): -100 for id in range(500, 512)}}


def create(**settings):
    settings = {"input": "Hello", "max_output_tokens": 8, "temperature": 0, "extra_body": NEVER_END} | settings
    return client.responses.create(model=suite.MODEL, **settings)


def refused(error_class, call, *args, **settings):
    try:
        call(*args, **settings)
    except error_class as error:
        assert type(error) is error_class, type(error)
        return error
    raise AssertionError(f"{settings} was not refused")


def test_a_response():
    response = create(instructions="Be brief.", metadata={"run": "1"})
    assert response.id.startswith("resp_") and response.object == "response"
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    [message] = response.output
    assert (message.type, message.role) == ("message", "assistant")
    assert response.output_text == message.content[0].text != ""
    assert response.usage.output_tokens == 8
    assert response.usage.total_tokens == response.usage.input_tokens + 8
    assert (response.instructions, response.metadata) == ("Be brief.", {"run": "1"})


def test_a_stream_says_what_the_whole_response_says():
    whole = create()
    events = list(create(stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    names = [event.type for event in events]
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage


def test_an_answer_that_the_model_ends_is_completed():
    # The golden's own end of turn.
    settings = {"model": suite.MODEL, "input": "Hello", "extra_body": {"logit_bias": {"500": 100}}}
    assert client.responses.create(**settings).status == "completed"
    with client.responses.stream(**settings) as stream:
        names = [event.type for event in stream]
        assert stream.get_final_response().status == "completed"
    assert names[-1] == "response.completed"


def test_a_conversation_is_kept_and_goes_on():
    first = create(instructions="Be brief.")
    second = create(input="And then?", previous_response_id=first.id)
    said = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And then?"},
    ]
    assert second.output_text == create(input=said).output_text
    assert second.usage == create(input=said).usage
    items = client.responses.input_items.list(second.id, order="asc", limit=2)
    assert [item.content[0].text for item in items] == ["Hello", first.output_text, "And then?"]
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(second.id)
    refused(openai.NotFoundError, client.responses.retrieve, second.id)
    assert create(previous_response_id=first.id).status == "incomplete"


def test_what_is_not_to_be_kept_is_not():
    response = create(store=False)
    refused(openai.NotFoundError, client.responses.retrieve, response.id)
    error = refused(openai.BadRequestError, create, previous_response_id=response.id)
    assert error.code == "previous_response_not_found"


def test_a_response_in_the_background_is_polled_and_cancelled():
    begun = create(background=True)
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    found = begun
    while found.status in ("queued", "in_progress"):
        time.sleep(0.01)
        found = client.responses.retrieve(begun.id)
    assert (found.status, found.output_text) == ("incomplete", create().output_text)
    assert client.responses.cancel(begun.id).status == "incomplete", "it has ended"
    long = create(background=True, max_output_tokens=200)
    # It may have ended first: the model is tiny.
    stopped = client.responses.cancel(long.id)
    assert stopped.status in ("cancelled", "incomplete") and client.responses.retrieve(long.id) == stopped
    refused(openai.BadRequestError, client.responses.cancel, create().id)


def test_an_answer_keeps_to_a_schema():
    # One of few texts: random weights would write white space in an object until the answer's end.
    format = {"type": "json_schema", "name": "sum", "schema": {"enum": [3, 4]}}
    response = create(text={"format": format}, extra_body={})
    assert response.status == "completed" and json.loads(response.output_text) in (3, 4)


def test_log_probabilities():
    response = create(include=["message.output_text.logprobs"], top_logprobs=2)
    listed = response.output[0].content[0].logprobs
    assert len(listed) == 8 and all(len(token.top_logprobs) == 2 for token in listed)


def test_a_long_conversation_is_cut_where_the_request_allows_it():
    said = [{"role": "user", "content": f"message {i} " * 5} for i in range(40)]
    error = refused(openai.BadRequestError, create, input=said)
    assert error.code == "context_length_exceeded"
    assert create(input=said, truncation="auto").usage.input_tokens <= suite.CONTEXT - 8


def test_errors_are_of_their_classes():
    for settings, param in [
        ({"input": []}, "input"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"background": True, "store": False}, "store"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "array"}}]}, "tools[0].parameters.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f", "arguments": "["}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]}, "input"),
    ]:
        error = refused(openai.BadRequestError, create, **settings)
        assert error.param == param, error.body
    refused(openai.NotFoundError, client.responses.create, model="gpt-4", input="x")


suite.run("openai for Python, Responses API", globals(), "openai")
