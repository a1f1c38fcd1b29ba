"""What the page asks of the server, and what it says when that refuses."""

import json

from playwright.sync_api import expect

import browser
from fake_server import FakeServer
from made_answers import SERVER, URL, is_quiet, last_request


def test_errors_are_said_in_the_servers_words(browser):
    page = browser.open(URL)
    for asked, said in [
        ("refuse 429", "Refused with 429: <b>wait</b> a little."),
        ("refuse 400", "Refused with 400: <b>wait</b> a little."),
        ("proxy", "The server answered with status 502."),
        ("fail now", "The engine failed: <i>out of luck</i>."),
        ("break now", "The connection ended before the answer did."),
        ("cut off", "The answer reached its longest length here."),
    ]:
        answer = page.ask(asked)
        expect(answer.locator(".notice > span")).to_have_text(said)
    # What came before a failure stays, and what failed at once is no part of the next question.
    page.ask("and now")
    contents = [message["content"] for message in last_request()["messages"]]
    assert contents[:3] == ["refuse 429", "refuse 400", "proxy"], contents
    # Try again sends the same once more.
    count = len(SERVER.requests)
    page.ask("refuse 500").get_by_role("button", name="Try again").click()
    page.settled()
    assert len(SERVER.requests) == count + 2


def test_a_server_that_is_gone(browser):
    server = FakeServer()
    page = browser.open(server.url)
    server.close()
    answer = page.ask("hello")
    expect(answer.locator(".notice > span")).to_have_text("The server does not answer. Is it still running?")


def test_a_server_with_a_key(browser):
    server = FakeServer(key="secret")
    page = browser.open(server.url)
    expect(page.get_by_role("alert")).to_contain_text("Incorrect API key provided.")
    page.get_by_role("button", name="Enter the key").click()
    expect(page.locator("#key")).to_be_focused()
    assert page.get_attribute("#key", "type") == "password"
    page.fill("#key", "secret")
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator("#model option")).to_have_count(2)
    page.ask("hello")
    stored = page.evaluate("() => [localStorage.getItem('dots.key'), sessionStorage.getItem('dots.key')]")
    assert stored == [None, '"secret"'], "by default the key goes with its tab"
    page.click("#open-settings")
    page.check("#keep-key")
    stored = page.evaluate("() => [localStorage.getItem('dots.key'), sessionStorage.getItem('dots.key')]")
    assert stored == ['"secret"', None]
    assert "secret" not in json.dumps(page.stored())
    server.close()


def test_settings_go_out_as_they_are_set(browser):
    page = browser.open(URL)
    page.select_option("#model", "dots.llm1-q4")
    page.click("#open-settings")
    page.fill("#system", "You are terse.")
    for name, value in {"temperature": "0.7", "top_p": "0.9", "top_k": "40", "min_p": "0.05", "max_tokens": "99", "seed": "-3", "presence_penalty": "-0.5", "frequency_penalty": "0.5", "repetition_penalty": "1.1"}.items():
        page.fill(f"#setting-{name}", value)
    page.fill("#setting-stop", "END\n\\n\\n\n")
    # What is out of range is said and not sent.
    page.fill("#setting-temperature", "3")
    expect(page.locator("#setting-temperature-hint")).to_have_text("From 0 to 2")
    expect(page.locator("#setting-temperature")).to_have_attribute("aria-invalid", "true")
    page.fill("#setting-temperature", "0.7")
    page.keyboard.press("Escape")
    page.ask("hello")
    asked = last_request()
    asked.pop("stream_options")
    assert asked == {
        "model": "dots.llm1-q4", "messages": [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "hello"}],
        "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 99, "seed": -3, "presence_penalty": -0.5,
        "frequency_penalty": 0.5, "repetition_penalty": 1.1, "stop": ["END", "\n\n"], "stream": True,
    }, asked
    page.reload()
    expect(page.locator("#model")).to_have_value("dots.llm1-q4")
    page.click("#open-settings")
    expect(page.locator("#setting-top_k")).to_have_value("40")
    expect(page.locator("#system")).to_have_value("You are terse.")
    page.click("#reset")
    page.keyboard.press("Escape")
    page.ask("hello")
    assert set(last_request()) == {"model", "messages", "stream", "stream_options"}
    is_quiet(page)


if __name__ == "__main__":
    browser.run("page-requests", globals())
