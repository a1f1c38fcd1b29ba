"""`langchain-openai` and `langchain-anthropic` against `dots serve`."""

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

import suite

OPENAI = {"model": suite.MODEL, "base_url": f"{suite.URL}/v1", "api_key": suite.KEY, "max_retries": 0}
ANTHROPIC = {"model": suite.MODEL, "base_url": suite.URL, "api_key": suite.KEY, "max_retries": 0}
SAID = [SystemMessage("Be brief."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("And then?")]


def chat(**settings):
    return ChatOpenAI(temperature=0, max_tokens=8, **OPENAI, **settings)


def test_a_chat():
    message = chat().invoke(SAID)
    assert isinstance(message, AIMessage)
    assert message.usage_metadata["output_tokens"] <= 8
    assert message.response_metadata["finish_reason"] in ("stop", "length")


def test_a_stream_says_the_same():
    streamed = "".join(chunk.text for chunk in chat().stream(SAID))
    assert streamed == chat().invoke(SAID).text


def test_a_batch_says_the_same():
    messages = chat().batch([SAID, SAID, [HumanMessage("Hello")]])
    assert messages[0].text == messages[1].text == chat().invoke(SAID).text


def test_the_responses_api():
    message = chat(use_responses_api=True).invoke(SAID)
    assert message.text == chat().invoke(SAID).text


def test_a_completion():
    assert isinstance(OpenAI(temperature=0, max_tokens=8, **OPENAI).invoke("Once upon"), str)


def test_anthropic_says_the_same():
    model = ChatAnthropic(temperature=0, max_tokens=8, **ANTHROPIC)
    assert model.invoke(SAID).text == chat().invoke(SAID).text
    assert "".join(chunk.text for chunk in model.stream(SAID)) == chat().invoke(SAID).text


def test_embeddings():
    # Without this it cuts texts by OpenAI's own tokenizer, which it would have to fetch.
    embeddings = OpenAIEmbeddings(check_embedding_ctx_length=False, **OPENAI)
    one, two = embeddings.embed_documents(["Hello", "you"])
    assert len(one) == len(two) > 1 and embeddings.embed_query("Hello") == one


suite.run("langchain", globals(), "langchain-openai")
