"""The `openai` package for Python against `dots serve`.

The model is a golden with random weights and 512 tokens: what it says means nothing, but it says the same every time.
"""

import collections
import time

import openai

import suite

client = openai.OpenAI(base_url=f"{suite.URL}/v1", api_key=suite.KEY, max_retries=0, timeout=120)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
# Without the golden's special tokens and those that stand for nothing an answer ends by its length alone, and all of its
# tokens show in its text.
NEVER_END = {str(id): -100 for id in range(500, 512)}


def chat(**settings):
    settings = {"messages": MESSAGES, "max_tokens": 8, "temperature": 0} | settings
    return client.chat.completions.create(model=suite.MODEL, **settings)


def complete(**settings):
    settings = {"prompt": "Once upon", "max_tokens": 8, "temperature": 0} | settings
    return client.completions.create(model=suite.MODEL, **settings)


def refused(error_class, call, **settings):
    try:
        call(**settings)
    except error_class as error:
        assert type(error) is error_class, type(error)
        assert error.body["message"], error.body
        return error
    raise AssertionError(f"{settings} was not refused")


def test_chat():
    answer = chat()
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == suite.MODEL
    assert answer.system_fingerprint.startswith("dots-")
    assert abs(answer.created - time.time()) < 600
    [choice] = answer.choices
    assert choice.index == 0
    assert choice.message.role == "assistant"
    assert isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    assert choice.logprobs is None
    assert answer.usage.prompt_tokens > 0
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_content_parts_and_the_developer_are_understood():
    system, user = MESSAGES
    parts = [{"role": "developer", "content": system["content"]}, {"role": "user", "content": [{"type": "text", "text": user["content"]}]}]
    assert chat(messages=parts).choices[0].message.content == chat().choices[0].message.content


def test_a_streamed_chat_says_the_same():
    whole = chat(logit_bias=NEVER_END, max_tokens=32)
    chunks = list(chat(logit_bias=NEVER_END, max_tokens=32, stream=True, stream_options={"include_usage": True}))
    *chunks, last = chunks
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert len(deltas) > 5
    assert deltas[-1].content is None and deltas[-1].role is None
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk.usage is None for chunk in chat(stream=True))


def test_greedy_is_the_same_every_time():
    assert chat(max_tokens=24).choices == chat(max_tokens=24).choices


def test_a_seed_gives_one_answer_and_n_gives_several():
    settings = {"temperature": 1.5, "top_p": 1, "max_tokens": 24, "logit_bias": NEVER_END}
    texts = [choice.message.content for choice in chat(seed=7, n=2, **settings).choices]
    assert texts == [choice.message.content for choice in chat(seed=7, n=2, **settings).choices]
    assert texts[0] != texts[1]
    assert texts[0] == chat(seed=7, **settings).choices[0].message.content
    assert texts[1] == chat(seed=8, **settings).choices[0].message.content
    unseeded = {chat(**settings).choices[0].message.content for _ in range(3)}
    assert len(unseeded) > 1


def test_n_counts_the_prompt_once():
    one, two = chat(logit_bias=NEVER_END), chat(logit_bias=NEVER_END, n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    assert two.usage.prompt_tokens == one.usage.prompt_tokens
    assert two.usage.completion_tokens == 2 * one.usage.completion_tokens


def test_a_stop_text_ends_the_answer_and_is_left_out():
    whole = chat(max_tokens=40, logit_bias=NEVER_END).choices[0].message.content
    stop = whole[6:8]
    cut = whole[: whole.index(stop)]
    for stops in (stop, ["\x00 never", stop]):
        answer = chat(max_tokens=40, logit_bias=NEVER_END, stop=stops)
        assert answer.choices[0].message.content == cut
        assert answer.choices[0].finish_reason == "stop"
    streamed = chat(max_tokens=40, logit_bias=NEVER_END, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == cut


def test_logit_bias_forbids_and_forces():
    forced = complete(logit_bias={"33": 100}, max_tokens=4, logprobs=0)
    assert len(set(forced.choices[0].logprobs.tokens)) == 1
    first = complete(max_tokens=1, logprobs=0, logit_bias=NEVER_END).choices[0].logprobs.tokens
    assert first != forced.choices[0].logprobs.tokens[:1]


def test_chat_logprobs():
    answer = chat(logprobs=True, top_logprobs=3, logit_bias=NEVER_END)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    for entry in entries:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        best = [top.logprob for top in entry.top_logprobs]
        assert best == sorted(best, reverse=True)
    said = b"".join(bytes(entry.bytes) for entry in entries)
    assert said.decode(errors="replace") == answer.choices[0].message.content
    streamed = [
        entry
        for chunk in chat(logprobs=True, top_logprobs=3, logit_bias=NEVER_END, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert streamed == entries


def test_completion():
    answer = complete(logit_bias=NEVER_END)
    assert answer.id.startswith("cmpl-")
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    streamed = list(complete(logit_bias=NEVER_END, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in streamed[:-1]) == answer.choices[0].text
    assert streamed[-1].usage == answer.usage
    assert streamed[-2].choices[0].finish_reason == "length"


def test_completion_is_16_tokens_long_by_default():
    answer = client.completions.create(model=suite.MODEL, prompt="x", logit_bias=NEVER_END)
    assert answer.usage.completion_tokens == 16


def test_completion_of_ids_and_of_batches():
    one, two = complete(prompt=[10, 20, 30]), complete(prompt=[40, 50])
    assert one.usage.prompt_tokens == 3
    both = complete(prompt=[[10, 20, 30], [40, 50]])
    assert [choice.index for choice in both.choices] == [0, 1]
    assert [choice.text for choice in both.choices] == [one.choices[0].text, two.choices[0].text]
    assert both.usage.prompt_tokens == 5
    texts = complete(prompt=["Once upon", "Hello"], n=2)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert texts.choices[0].text == texts.choices[1].text == complete().choices[0].text


def test_echo_begins_with_the_prompt():
    assert complete(echo=True).choices[0].text == "Once upon" + complete().choices[0].text


def test_completion_logprobs():
    answer = complete(logprobs=2, logit_bias=NEVER_END)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 8
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert top[token] == logprob <= 0
        assert 2 <= len(top) <= 3
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset == sorted(logprobs.text_offset)


def test_answers_to_one_prompt_list_its_tokens_alike():
    asked = dict(prompt="Once upon a time there was", echo=True, logprobs=1, seed=3, max_tokens=3, logit_bias=NEVER_END)
    alone = complete(**asked).choices[0].logprobs
    prompt = len(alone.tokens) - 3
    for choice in complete(n=3, **asked).choices:
        assert len(choice.logprobs.tokens) == prompt + 3
        assert choice.logprobs.token_logprobs[:prompt] == alone.token_logprobs[:prompt]
        assert choice.logprobs.text_offset[:prompt] == alone.text_offset[:prompt]
    streams = collections.defaultdict(list)
    for chunk in complete(n=3, stream=True, **asked):
        streams[chunk.choices[0].index] += chunk.choices[0].logprobs.token_logprobs
    assert sorted(streams) == [0, 1, 2]
    assert all(listed[:prompt] == alone.token_logprobs[:prompt] and len(listed) == prompt + 3 for listed in streams.values())


def test_special_tokens_are_parsed_in_prompts_and_text_in_chats():
    special = complete(prompt="<|userprompt|>", max_tokens=1).usage.prompt_tokens
    assert special == 1
    plain = chat(messages=[{"role": "user", "content": ""}], max_tokens=1).usage.prompt_tokens
    written = chat(messages=[{"role": "user", "content": "<|endofuserprompt|>"}], max_tokens=1).usage.prompt_tokens
    assert written > plain + 1


def test_models():
    models = client.models.list().data
    assert [model.id for model in models] == [suite.MODEL]
    model = client.models.retrieve(suite.MODEL)
    assert (model.id, model.object) == (suite.MODEL, "model")
    assert model.max_model_len == suite.CONTEXT
    error = refused(openai.NotFoundError, client.models.retrieve, model="gpt-4")
    assert error.code == "model_not_found"


def test_errors_are_of_their_classes():
    error = refused(openai.NotFoundError, client.chat.completions.create, model="gpt-4", messages=MESSAGES)
    assert (error.code, error.param) == ("model_not_found", "model")
    for call, settings, param in [
        (chat, {"messages": []}, "messages"),
        (chat, {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        (chat, {"temperature": 3}, "temperature"),
        (chat, {"temperature": "hot"}, "temperature"),
        (chat, {"top_p": -1}, "top_p"),
        (chat, {"n": 0}, "n"),
        (chat, {"top_logprobs": 2}, "top_logprobs"),
        (chat, {"max_tokens": 0}, "max_tokens"),
        (chat, {"tools": [{"type": "function", "function": {"name": "f g"}}]}, "tools[0].function.name"),
        (chat, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}}, "response_format.json_schema.schema"),
        (chat, {"logit_bias": {"512": 1}}, "logit_bias"),
        (complete, {"prompt": [512]}, "prompt"),
        (complete, {"prompt": []}, "prompt"),
        (complete, {"prompt": ""}, "prompt"),
        (complete, {"logprobs": 6}, "logprobs"),
        (complete, {"best_of": 3}, "best_of"),
    ]:
        error = refused(openai.BadRequestError, call, **settings)
        assert (error.type, error.param) == ("invalid_request_error", param), (settings, error.body)
    stranger = client.with_options(api_key="wrong")
    error = refused(openai.AuthenticationError, stranger.models.list)
    assert error.code == "invalid_api_key"


def test_a_request_beyond_the_context_is_told_the_numbers():
    for call, settings in [
        (chat, {"messages": [{"role": "user", "content": "word " * 2000}]}),
        (chat, {"max_tokens": suite.CONTEXT}),
        (complete, {"prompt": [1] * suite.CONTEXT, "max_tokens": 1}),
        (complete, {"prompt": [1] * suite.CONTEXT, "max_tokens": None}),
        (complete, {"max_tokens": 10**12, "stream": True}),
    ]:
        error = refused(openai.BadRequestError, call, **settings)
        assert error.code == "context_length_exceeded", error.body
        assert str(suite.CONTEXT) in error.body["message"], error.body
    full = complete(prompt=[1] * (suite.CONTEXT - 1), max_tokens=1)
    assert full.usage.total_tokens == suite.CONTEXT
    rest = chat(max_tokens=None, logit_bias=NEVER_END)
    assert rest.usage.total_tokens == suite.CONTEXT
    assert rest.choices[0].finish_reason == "length"


def health():
    return client.get(f"{suite.URL}/health", cast_to=dict[str, object])


def test_a_client_that_hangs_up_stops_its_generation():
    # Thousands of answers, which would take a while: where they go on, they still run when we look.
    settings = {"prompt": [[1, 2, 3]] * 256, "n": 16, "max_tokens": 250, "logit_bias": NEVER_END, "stream": True}
    with complete(**settings) as stream:
        next(iter(stream))
        busy = health()
        assert busy["running"] + busy["waiting"] > 1000, busy
    deadline = time.monotonic() + 10
    while (idle := health())["running"] + idle["waiting"] > 0:
        assert time.monotonic() < deadline, idle
        time.sleep(0.05)


suite.run("openai for Python", globals(), "openai")
