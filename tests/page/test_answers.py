"""Answers in a real browser: they grow, stop, are asked for again and go on."""

import re
import time

from playwright.sync_api import expect

import browser
from made_answers import SERVER, URL, is_quiet, last_request


def test_an_answer_grows_while_it_comes(browser):
    page = browser.open(URL)
    page.type_and_send("held 60")
    body = page.locator(".message.assistant .body")
    expect(body).to_contain_text("word29")
    assert "word30" not in body.inner_text()
    expect(page.locator("#stop")).to_be_visible()
    SERVER.released.set()
    answer = page.settled()
    expect(body).to_contain_text("word59")
    stats = answer.locator(".stats").inner_text()
    assert re.search(r"[\d.]+ tokens/s\s+first after [\d.]+ s\s+12 tokens in, 60 out", stats), stats
    # After the wait its second half took 0.6 s at least.
    assert 0.5 < float(re.search(r"([\d.]+) tokens/s", stats).group(1)) < 100, stats
    assert last_request() == {
        "model": "dots.llm1",
        "messages": [{"role": "user", "content": "held 60"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    expect(page.locator("#meter")).to_have_text("72 of 4,096 tokens of context")
    is_quiet(page)


def test_an_answer_can_be_stopped(browser):
    page = browser.open(URL)
    for how in [lambda: page.keyboard.press("Escape"), lambda: page.click("#stop")]:
        before = SERVER.hung_up
        page.type_and_send("slow 1000")
        expect(page.locator(".message.assistant .body").last).to_contain_text("word3")
        how()
        answer = page.settled()
        expect(answer.locator(".notice")).to_have_text("Stopped.")
        expect(answer.locator(".body")).to_contain_text("word3")
        expect(answer.locator(".stats")).to_contain_text("about")
        deadline = time.monotonic() + 5
        while SERVER.hung_up == before and time.monotonic() < deadline:
            page.wait_for_timeout(20)
        assert SERVER.hung_up == before + 1, "the server is told"
    expect(page.locator("#message")).to_be_focused()
    is_quiet(page)


def test_another_answer_leaves_the_first_where_it_was(browser):
    page = browser.open(URL)
    answer = page.ask("hello")
    answer.get_by_label("Answer again").click()
    answer = page.settled()
    expect(answer.locator(".versions")).to_contain_text("2/2")
    expect(answer.get_by_label("Next version")).to_be_disabled()
    answer.get_by_label("Previous version").click()
    expect(page.locator(".message.assistant .versions")).to_contain_text("1/2")
    assert len(last_request()["messages"]) == 1, "the first answer is no part of the question"
    # The button that was pressed is made anew, and keeps the focus, here on the only one that is left to press.
    expect(page.get_by_label("Next version")).to_be_focused()
    # A question behind the first version goes on from there.
    page.ask("more")
    assert [message["content"] for message in last_request()["messages"]] == ["hello", "You said: hello", "more"]
    is_quiet(page)


def test_an_edited_message_is_sent_again_and_the_old_one_kept(browser):
    page = browser.open(URL)
    page.ask("first")
    page.ask("second")
    question = page.locator(".message.user").first
    question.hover()
    question.get_by_label("Edit").click()
    field = page.get_by_label("Edit your message")
    expect(field).to_be_focused()
    field.press("Escape")
    expect(field).to_have_count(0)
    question.get_by_label("Edit").click()
    field.fill("changed")
    field.press("Enter")
    answer = page.settled()
    expect(answer.locator(".body")).to_have_text("You said: changed")
    expect(page.locator(".message")).to_have_count(2)
    page.locator(".message.user").get_by_label("Previous version").click()
    expect(page.locator(".message")).to_have_count(4)
    expect(page.locator(".message.assistant .body").last).to_have_text("You said: second")
    is_quiet(page)


def test_an_answer_goes_on_while_another_conversation_is_shown(browser):
    page = browser.open(URL)
    page.type_and_send("held 80")
    expect(page.locator(".message.assistant .body")).to_contain_text("word2")
    page.click("#new")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator(".mark.running")).to_have_count(1)
    page.ask("meanwhile")
    SERVER.released.set()
    page.locator("#list .open", has_text="held 80").click()
    answer = page.settled()
    text = answer.locator(".body").inner_text().split()
    assert text == [f"word{i}" for i in range(80)], text
    is_quiet(page)


def test_the_end_is_followed_until_one_scrolls_up(browser):
    page = browser.open(URL)
    page.ask("markdown")
    page.type_and_send("slow 600")
    expect(page.locator(".message.assistant .body").last).to_contain_text("word90")
    is_at_end = "() => { const m = document.getElementById('main'); return m.scrollHeight - m.scrollTop - m.clientHeight < 4 }"
    page.wait_for_function(is_at_end)
    page.mouse.move(640, 300)
    page.mouse.wheel(0, -300)
    expect(page.locator("#jump")).to_be_visible()
    # A wheel's turn may take some frames.
    page.wait_for_function("() => { const { scrollTop } = document.getElementById('main'), rests = scrollTop === window.top_before; window.top_before = scrollTop; return rests }", polling=100)
    top = page.evaluate("() => document.getElementById('main').scrollTop")
    page.wait_for_timeout(300)
    assert abs(page.evaluate("() => document.getElementById('main').scrollTop") - top) < 2
    page.click("#jump")
    page.wait_for_function(is_at_end)
    expect(page.locator("#jump")).to_be_hidden()
    page.keyboard.press("Escape")


def test_a_version_is_turned_where_it_stands(browser):
    page = browser.open(URL)
    page.ask("markdown").get_by_label("Answer again").click()
    page.settled()
    page.ask("markdown")
    page.ask("markdown")
    page.evaluate("() => { document.getElementById('main').scrollTop = 0 }")
    page.keyboard.press("Escape")
    page.locator(".message.assistant").first.get_by_label("Previous version").click()
    page.locator(".message.assistant").first.get_by_label("Next version").click()
    expect(page.locator(".message")).to_have_count(6)
    assert page.evaluate("() => { const m = document.getElementById('main'); return m.scrollHeight - m.scrollTop - m.clientHeight }") > 500
    # From the message field the messages scroll, too.
    page.locator("#message").focus()
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    page.wait_for_function("() => { const m = document.getElementById('main'); return m.scrollTop > 1000 }")


def test_a_long_answer_does_not_slow_down(browser):
    page = browser.open(URL)
    metrics = page.context.new_cdp_session(page.page)
    # The page's own seconds of the processor, whatever else runs there.
    metrics.send("Performance.enable", {"timeDomain": "threadTicks"})

    def cost(question):
        page.click("#new")
        values = []
        for work in [lambda: None, lambda: page.ask(question)]:
            work()
            found = {one["name"]: one["value"] for one in metrics.send("Performance.getMetrics")["metrics"]}
            values.append(found["TaskDuration"])
        return values[1] - values[0]

    short, long = cost("long 60"), cost("long 240")
    assert page.locator(".message.assistant .table").count() == 240
    assert long < max(short, 0.2) * 4 * 2.5, f"four times the length took {short} and {long} s"
    # One line without an end is read anew with each frame, and so shown less often.
    one_line = cost("oneline 4000")
    assert one_line < 10, one_line


if __name__ == "__main__":
    browser.run("page-answers", globals())
