"""The `openai` package for Python against `dots serve`: answers that keep to a form, and tools.

The model is a golden with random weights, whose context is made longer here: what it says means nothing, and still it parses.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal, Optional

import anthropic
import openai
from pydantic import BaseModel, Field

dots, golden = sys.argv[1:]
os.environ |= {"DOTS_TEST_KEY": "", "DOTS_TEST_MODEL": "dots1", "DOTS_TEST_CONTEXT": "2048"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


folder = tempfile.TemporaryDirectory()
model = Path(folder.name) / "model"
shutil.copytree(golden, model)
model.chmod(0o755)
config = json.loads((model / "config.json").read_text())
(model / "config.json").chmod(0o644)
(model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
port = free_port()
os.environ["DOTS_TEST_URL"] = f"http://127.0.0.1:{port}"
server = subprocess.Popen(
    [dots, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "dots1"],
    stderr=subprocess.DEVNULL,
)

import suite  # noqa: E402, it reads the variables above

client = openai.OpenAI(base_url=f"{suite.URL}/v1", api_key="none", max_retries=0, timeout=120)
# The model's noise closes what it has opened.
CLOSE = {str(vocabulary[character]): 4 for character in '"}]'}
SETTINGS = {"model": suite.MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 700, "logit_bias": CLOSE}


class Step(BaseModel):
    explanation: str = Field(max_length=12)
    output: Optional[int]


class Answer(BaseModel):
    steps: list[Step] = Field(max_length=3)
    mood: Literal["good", "bad"]


def weather(name="weather"):
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": "Weather of a city.", "parameters": parameters}}


def check_call(call, names=("weather",)):
    assert call.type == "function" and call.id.startswith("call_") and call.function.name in names, call
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"} and len(arguments["city"]) <= 8 and arguments["unit"] in "CF", arguments


def chat(**settings):
    return client.chat.completions.create(**SETTINGS | settings)


def refused(param, **settings):
    try:
        chat(**settings)
    except openai.BadRequestError as error:
        assert error.param == param, error.body
        return
    raise AssertionError(f"{settings} was not refused")


def test_an_answer_parses_into_its_class():
    for seed in range(5):
        answer = client.chat.completions.parse(**SETTINGS, seed=seed, response_format=Answer)
        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(answer.choices[0].message.parsed, Answer)


def test_a_streamed_answer_parses_into_its_class():
    with client.chat.completions.stream(**SETTINGS, seed=1, response_format=Answer) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message
    whole = client.chat.completions.parse(**SETTINGS, seed=1, response_format=Answer).choices[0].message
    assert streamed.parsed == whole.parsed and streamed.content == whole.content


def test_a_response_parses_into_its_class():
    settings = {"model": suite.MODEL, "input": "Hello", "max_output_tokens": 700, "extra_body": {"logit_bias": CLOSE, "seed": 2}}
    response = client.responses.parse(text_format=Answer, **settings)
    assert response.status == "completed" and isinstance(response.output_parsed, Answer), response
    with client.responses.stream(text_format=Answer, **settings) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_parsed == response.output_parsed


def test_any_object():
    ended = 0
    for seed in range(8):
        choice = chat(seed=seed, response_format={"type": "json_object"}).choices[0]
        if choice.finish_reason == "stop":
            ended += 1
            assert isinstance(json.loads(choice.message.content), dict)
    assert ended > 3


def test_an_answer_cut_off_says_so():
    choice = chat(response_format={"type": "json_object"}, max_tokens=1).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("length", "{")


def test_the_fields_of_vllm():
    for extra, pattern in [
        ({"guided_regex": "[0-9]{3}-[a-f]{2}"}, "[0-9]{3}-[a-f]{2}"),
        ({"guided_choice": ["yes", "no", "中文"]}, "yes|no|中文"),
        ({"guided_grammar": 'start: "a" B "c"\nB: /[bB]{2}/'}, "a[bB]{2}c"),
        ({"guided_grammar": 'root ::= "x" | "(" root ")"'}, r"\(*x\)*"),
        ({"structured_outputs": {"regex": "(ab){1,4}"}}, "(ab){1,4}"),
        ({"structured_outputs": {"choice": ["1", "2"]}}, "1|2"),
        ({"guided_json": {"type": "boolean"}}, "true|false"),
        ({"structured_outputs": {"json": {"const": [1, 2]}, "disable_any_whitespace": True}}, r"\[1,2\]"),
    ]:
        choice = chat(extra_body=extra, seed=3).choices[0]
        assert re.fullmatch(pattern, choice.message.content), (extra, choice)
        assert choice.finish_reason == "stop"
        completion = client.completions.create(
            model=suite.MODEL, prompt="x", max_tokens=700, seed=3, logit_bias=CLOSE, extra_body=extra
        )
        assert re.fullmatch(pattern, completion.choices[0].text), (extra, completion)


def test_several_answers_keep_to_one_form():
    choices = chat(n=4, seed=1, extra_body={"guided_regex": "[a-z]{8}"}).choices
    texts = [choice.message.content for choice in choices]
    assert len(set(texts)) > 1 and all(re.fullmatch("[a-z]{8}", text) for text in texts), texts


def test_required_calls():
    for seed in range(4):
        choice = chat(tools=[weather(), weather("tides")], tool_choice="required", seed=seed, parallel_tool_calls=False).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
        [call] = choice.message.tool_calls
        check_call(call, ("weather", "tides"))


def test_a_named_call():
    choice = {"type": "function", "function": {"name": "tides"}}
    message = chat(tools=[weather(), weather("tides")], tool_choice=choice).choices[0].message
    [call] = message.tool_calls
    check_call(call, ("tides",))


def test_streamed_calls_are_the_same():
    settings = {"tools": [weather()], "tool_choice": "required", "seed": 5, "parallel_tool_calls": False}
    whole = chat(**settings).choices[0].message.tool_calls[0].function
    with client.chat.completions.stream(**SETTINGS, **settings) as stream:
        pieces = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        message = stream.get_final_completion().choices[0].message
    function = message.tool_calls[0].function
    assert (function.name, function.arguments) == (whole.name, whole.arguments)
    assert "".join(pieces) == whole.arguments and len(pieces) > 5


def test_a_choice_left_to_the_model_is_a_text_or_calls():
    for seed in range(4):
        choice = chat(tools=[weather()], seed=seed, max_tokens=60).choices[0]
        if choice.finish_reason != "length":
            for call in choice.message.tool_calls or []:
                check_call(call)
    choice = chat(tools=[weather()], tool_choice="none", max_tokens=5).choices[0]
    assert choice.message.tool_calls is None


def test_json_beside_tools():
    for seed in range(4):
        message = chat(tools=[weather()], seed=seed, parallel_tool_calls=False, response_format={
            "type": "json_schema", "json_schema": {"name": "yes", "schema": {"type": "boolean"}},
        }).choices[0].message
        if message.tool_calls:
            check_call(message.tool_calls[0])
        else:
            assert message.content in ("true", "false"), message


def test_a_conversation_with_results_goes_on():
    first = chat(tools=[weather()], tool_choice="required", parallel_tool_calls=False).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "7 degrees"}
    history = [*SETTINGS["messages"], first, result]
    short = chat(tools=[weather()], max_tokens=4)
    longer = chat(messages=history, tools=[weather()], max_tokens=4)
    assert longer.usage.prompt_tokens > short.usage.prompt_tokens + 20


def test_refusals_name_their_field():
    refused("tools", tools=[{"type": "function", "function": {"name": "f"}}] * 129)
    refused("tools[1].function.name", tools=[weather(), weather()])
    refused("tool_choice", tool_choice="required")
    refused("tools[0].function.parameters", tools=[{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/x"}}}])
    refused("response_format.json_schema.schema", response_format={
        "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "("}},
    })
    refused("guided_regex", extra_body={"guided_regex": "(a"})
    refused("guided_grammar", extra_body={"guided_grammar": "root ::= nothing"})
    refused("messages[1].tool_call_id", messages=[{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}])


def respond(**settings):
    tools = [{"type": "function"} | weather(name)["function"] for name in ("weather", "tides")]
    settings = {"input": "Hello", "max_output_tokens": 700, "tools": tools, "extra_body": {"logit_bias": CLOSE, "seed": 5}} | settings
    return client.responses.create(model=suite.MODEL, **settings)


def check_item(item, names=("weather", "tides")):
    assert (item.type, item.status) == ("function_call", "completed") and item.name in names, item
    assert item.call_id.startswith("call_") and set(json.loads(item.arguments)) == {"city", "unit"}, item


def test_a_response_calls_and_goes_on_with_the_result():
    first = respond(tool_choice={"type": "function", "name": "tides"})
    assert first.status == "completed", first
    [call] = first.output
    check_item(call, ("tides",))
    assert [tool.name for tool in first.tools] == ["weather", "tides"] and first.tool_choice.name == "tides"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "low at 7"}
    kept = respond(input=[result], previous_response_id=first.id, tool_choice="none", max_output_tokens=4)
    said = [{"role": "user", "content": "Hello"}, *first.output, result]
    sent = respond(input=said, tool_choice="none", max_output_tokens=4)
    assert [item.type for item in kept.output] == ["message"]
    assert kept.output_text == sent.output_text and kept.usage.input_tokens == sent.usage.input_tokens
    try:
        respond(input=[result | {"call_id": "call_x"}], previous_response_id=first.id)
    except openai.BadRequestError as error:
        assert error.param == "input", error.body
    else:
        raise AssertionError("a result without its call was taken")


def test_a_streamed_response_calls_the_same():
    settings = {"tool_choice": "required", "parallel_tool_calls": False}
    [whole] = respond(**settings).output
    check_item(whole)
    events = list(respond(**settings, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    delta = "response.function_call_arguments.delta"
    assert [event.type for event in events if event.type != delta] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    pieces = [event.delta for event in events if event.type == delta]
    assert "".join(pieces) == whole.arguments and len(pieces) > 5
    [call] = events[-1].response.output
    assert (call.name, call.arguments, events[-2].item) == (whole.name, whole.arguments, call)
    asked = {"tools": [{"type": "function"} | weather()["function"]], "tool_choice": "required"}
    asked |= {"input": "Hello", "max_output_tokens": 700, "extra_body": {"logit_bias": CLOSE, "seed": 5}}
    with client.responses.stream(model=suite.MODEL, **asked) as stream:
        for _ in stream:
            pass
        for item in stream.get_final_response().output:
            assert item.type == "function_call" and item.name == "weather", item


def test_anthropics_tools():
    claude = anthropic.Anthropic(base_url=suite.URL, api_key="none", max_retries=0, timeout=120)
    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Bern"]}}, "required": ["city"], "additionalProperties": False}
    tool = {"name": "weather", "description": "The weather of a city.", "input_schema": schema}
    said = [{"role": "user", "content": "Hello"}]
    settings = {
        "model": suite.MODEL, "messages": said, "tools": [tool], "tool_choice": {"type": "tool", "name": "weather"},
        "max_tokens": 256, "extra_body": {"seed": 5},
    }
    message = claude.messages.create(**settings)
    [call] = message.content
    assert (call.type, call.name, message.stop_reason) == ("tool_use", "weather", "tool_use")
    assert call.input["city"] in ("Oslo", "Bern")
    with claude.messages.stream(**settings) as stream:
        streamed = stream.get_final_message()
    assert (streamed.content[0].input, streamed.stop_reason) == (call.input, "tool_use")
    said += [
        {"role": "assistant", "content": [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.input}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]},
    ]
    answered = claude.messages.create(**(settings | {"messages": said, "tool_choice": {"type": "none"}, "max_tokens": 5}))
    assert all(block.type == "text" for block in answered.content)


for _ in range(300):
    try:
        if client.get(f"{suite.URL}/health", cast_to=dict[str, object]):
            break
    except openai.APIConnectionError:
        assert server.poll() is None, "the server ended while starting"
        time.sleep(0.1)
try:
    suite.run("structured output and tools", globals())
finally:
    server.terminate()
    server.wait()
