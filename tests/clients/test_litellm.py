"""`litellm` against `dots serve`, as an OpenAI server and as an Anthropic one."""

import litellm

import suite

MESSAGES = [{"role": "user", "content": "Hello"}]
OPENAI = {"model": f"openai/{suite.MODEL}", "api_base": f"{suite.URL}/v1", "api_key": suite.KEY, "num_retries": 0}
ANTHROPIC = {"model": f"anthropic/{suite.MODEL}", "api_base": suite.URL, "api_key": suite.KEY, "num_retries": 0}


def completion(server=OPENAI, **settings):
    return litellm.completion(**({"messages": MESSAGES, "max_tokens": 8, "temperature": 0} | server | settings))


def test_a_chat():
    answer = completion()
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_says_the_same():
    streamed = completion(stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == (completion().choices[0].message.content or "")


def test_a_text_completion():
    answer = litellm.text_completion(prompt="Once upon", max_tokens=8, **(OPENAI | {"model": f"text-completion-openai/{suite.MODEL}"}))
    assert answer.usage.completion_tokens <= 8


def test_an_anthropic_chat_says_what_the_openai_chat_says():
    answer = completion(ANTHROPIC)
    assert answer.choices[0].message.content == completion().choices[0].message.content
    assert answer.usage.prompt_tokens == completion().usage.prompt_tokens


def test_a_streamed_anthropic_chat_says_the_same():
    text = "".join(chunk.choices[0].delta.content or "" for chunk in completion(ANTHROPIC, stream=True))
    assert text == completion(ANTHROPIC).choices[0].message.content


def test_a_response():
    response = litellm.responses(input="Hello", max_output_tokens=8, **OPENAI)
    assert response.id and response.output[0].type == "message"


def test_an_embedding():
    answer = litellm.embedding(input=["Hello", "you"], encoding_format="float", **OPENAI)
    assert len(answer.data) == 2 and len(answer.data[0]["embedding"]) > 1


def test_errors_are_of_their_classes():
    for server in (OPENAI, ANTHROPIC):
        for settings, error_class in [
            ({"max_tokens": 10 * suite.CONTEXT}, litellm.BadRequestError),
            ({"api_key": "wrong"}, litellm.AuthenticationError),
        ]:
            try:
                completion(server, **settings)
            except error_class:
                continue
            raise AssertionError(f"{server} {settings}")


suite.run("litellm", globals(), "litellm")
