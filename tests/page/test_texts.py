"""What a model writes, in a real browser: shown, copied, and never run."""

import re
import time

from playwright.sync_api import expect

import browser
from fake_server import ANSWERS
from made_answers import URL, is_quiet


def test_markdown_becomes_elements(browser):
    page = browser.open(URL)
    body = page.ask("markdown").locator(".body")
    shape = body.evaluate("element => [...element.children].map((child) => child.localName + (child.className && '.' + child.className))")
    assert shape == ["h3", "p", "ol.tight", "blockquote", "div.code", "div.table", "ul.tight", "hr", "p"], shape
    assert body.locator("ol > li > ul > li").count() == 2
    assert body.locator("li.task input[disabled]").count() == 2
    assert body.locator("th").all_inner_texts() == ["Tea", "Oxidised", "Minutes"]
    assert body.locator("td.align-center strong").inner_text() == "partly"
    link = body.locator("a")
    assert (link.get_attribute("href"), link.get_attribute("target")) == ("https://example.org/a", "_blank")
    assert "noopener" in link.get_attribute("rel")
    assert body.locator(".code .language").inner_text() == "python"
    assert body.locator(".code-keyword").first.inner_text() == "def"
    assert body.locator(".code-comment").first.inner_text() == "# Sort first."
    code = re.search(r"```python\n(.*?)```", ANSWERS["markdown"], re.S).group(1)
    assert body.locator("pre").evaluate("element => element.textContent") == code
    is_quiet(page)


def test_while_it_grows_an_answer_looks_as_it_will(browser):
    page = browser.open(URL)
    page.type_and_send("markdown")
    grown = page.settled().locator(".body").inner_html()
    page.reload()
    page.locator("#list .open").first.click()
    whole = page.locator(".message.assistant .body")
    expect(whole).to_be_visible()
    assert whole.inner_html() == grown


def test_copying(browser):
    context = browser.context(permissions=["clipboard-read", "clipboard-write"])
    page = type(browser.open(URL))(context, URL)
    answer = page.ask("markdown")
    code = re.search(r"```python\n(.*?)```", ANSWERS["markdown"], re.S).group(1)
    answer.get_by_label("Copy code").click()
    expect(answer.get_by_label("Copy code")).to_have_text("Copied")
    expect(page.locator("#toast")).to_have_text("Copied")

    def is_on_clipboard(text):
        # What says so may still be of the time before.
        page.wait_for_function("async (text) => (await navigator.clipboard.readText()).trim() === text", arg=text.strip())

    is_on_clipboard(code)
    answer.get_by_label("Copy message").click()
    is_on_clipboard(ANSWERS["markdown"])
    # Over plain HTTP from another machine there is no such clipboard.
    page.evaluate("async () => { await navigator.clipboard.writeText('other'); Object.defineProperty(Clipboard.prototype, 'writeText', {value: undefined}) }")
    answer.get_by_label("Copy code").click()
    expect(answer.get_by_label("Copy code")).to_have_text("Copied")
    is_on_clipboard(code)


def test_nothing_that_a_model_says_becomes_script_or_reaches_elsewhere(browser):
    page = browser.open(URL)
    page.ask("xss")
    body = page.locator(".message.assistant .body").first
    # A user can paste the same, and a title is made of it.
    page.ask("<img src=x onerror=window.hacked=1> [a](javascript:window.hacked=2)")
    page.wait_for_timeout(200)
    assert page.evaluate("() => window.hacked") is None
    found = page.evaluate(
        """() => [...document.querySelectorAll('.message *, #list *')].flatMap((element) => [
            ...(['script', 'img', 'iframe', 'form', 'style', 'object', 'embed', 'link', 'meta', 'base'].includes(element.localName) ? [element.localName] : []),
            ...[...element.attributes].filter((attribute) => /^on|^style$|^srcdoc$/.test(attribute.name)).map((attribute) => attribute.name),
            ...(element.localName === 'a' && !/^(https?|mailto):/.test(element.protocol) ? [element.outerHTML] : []),
        ])"""
    )
    assert found == [], found
    assert "<script>window.hacked = 1</script>" in body.inner_text(), "it is there to read"
    assert body.locator("a").all_inner_texts() == ["pixel", "a", "https://evil.example"]
    is_quiet(page)


def test_the_policy_stops_what_would_get_through(browser):
    page = browser.open(URL)
    script = "() => { const p = document.createElement('p'); p.innerHTML = '<b>x</b>'; }"
    try:
        page.evaluate(script)
        raise AssertionError("markup was parsed")
    except Exception as error:
        assert "TrustedHTML" in str(error), error
    page.evaluate("() => { const i = new Image(); i.src = 'https://evil.example/x.png'; document.body.append(i); }")
    deadline = time.monotonic() + 5
    while not any("Content Security Policy" in complaint for complaint in page.complaints):
        assert time.monotonic() < deadline, page.complaints
        page.wait_for_timeout(20)


if __name__ == "__main__":
    browser.run("page-texts", globals())
