"""The page as `dots serve` serves it, over a real model."""

import os
import re
import urllib.request

from playwright.sync_api import expect

import browser

URL = os.environ["DOTS_TEST_URL"]
KEY = os.environ["DOTS_TEST_KEY"]


def with_key(browser):
    page = browser.open(URL)
    page.get_by_role("button", name="Enter the key").click()
    page.fill("#key", KEY)
    page.keyboard.press("Escape")
    expect(page.locator("#model")).to_have_value("dots1")
    page.complaints.clear()
    return page


def test_a_chat_with_a_real_model(browser):
    page = with_key(browser)
    page.click("#open-settings")
    page.fill("#setting-max_tokens", "24")
    page.fill("#setting-seed", "7")
    page.keyboard.press("Escape")
    answer = page.ask("Hello")
    # Where a model of random weights ends by itself depends on the processor's arithmetic.
    expect(answer.locator(".stats")).to_contain_text(re.compile(r"tokens/s.* [0-9]+ out"))
    first = answer.locator(".body").inner_text()
    assert first != ""
    # The same seed gives the same answer.
    answer.get_by_label("Answer again").click()
    answer = page.settled()
    expect(answer.locator(".versions")).to_contain_text("2/2")
    assert answer.locator(".body").inner_text() == first
    page.ask("And a second question")
    expect(page.locator("#meter")).to_contain_text("tokens of context")
    assert page.complaints == [], page.complaints
    assert page.hosts == {URL}, page.hosts


def test_the_servers_own_errors_are_shown(browser):
    page = with_key(browser)
    page.click("#open-settings")
    page.fill("#setting-max_tokens", "9999999")
    page.keyboard.press("Escape")
    answer = page.ask("Hello")
    expect(answer.locator(".notice.error > span")).to_contain_text("9999999")


def test_stopping_reaches_the_model(browser):
    page = with_key(browser)
    page.click("#open-settings")
    page.fill("#setting-seed", "7")
    page.keyboard.press("Escape")
    page.type_and_send("Hello")
    expect(page.locator(".message.assistant .body")).not_to_have_text("")
    page.keyboard.press("Escape")
    page.settled()
    for _ in range(100):
        health = urllib.request.urlopen(f"{URL}/health").read()
        if b'"running":0' in health:
            return
        page.wait_for_timeout(50)
    raise AssertionError(health)


def test_the_browser_asks_again_and_is_told_that_nothing_changed(browser):
    page = browser.open(URL)
    answers = []
    page.page.on("response", lambda response: answers.append((response.request.url, response.status, response.all_headers())))
    page.reload()
    expect(page.locator("#model option").first).to_be_attached()
    served = {url: headers for url, _, headers in answers if "/v1/" not in url}
    assert len(served) > 30, list(served)
    for url, headers in served.items():
        assert "default-src 'none'" in headers["content-security-policy"], url
        assert headers["x-content-type-options"] == "nosniff", url
        request = urllib.request.Request(url, headers={"If-None-Match": headers["etag"]})
        try:
            urllib.request.urlopen(request)
            raise AssertionError(url)
        except urllib.error.HTTPError as error:
            assert error.code == 304, url


if __name__ == "__main__":
    browser.run("page-server", globals())
