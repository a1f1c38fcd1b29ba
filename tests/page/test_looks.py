"""The page for every eye and ear: speech, contrast, languages, dark and light, a phone."""

from playwright.sync_api import expect

import browser
from browser import MOBILE
from made_answers import URL, is_quiet


def test_an_answer_is_heard_in_sentences(browser):
    page = browser.open(URL)
    page.evaluate(
        """() => { window.heard = []; new MutationObserver((changes) => changes.forEach((change) => change.addedNodes.forEach((node) => heard.push(node.textContent))))
            .observe(document.getElementById('speech'), {childList: true}) }"""
    )
    page.ask("markdown")
    heard = page.evaluate("() => heard")
    assert heard[0] == "dots is answering." and heard[-1] == "The answer is complete.", heard
    assert "A block of code, 9 lines." in heard and "A table." in heard, heard
    assert "Some bold , slanted and inline words, a link and ~~none~~." in heard, heard
    assert len(heard) < 25, heard
    assert page.get_attribute("#speech", "aria-live") == "polite"


def test_nothing_is_wrong_for_those_who_hear_or_need_contrast(browser):
    wrong = []
    for scheme in ["light", "dark"]:
        page = browser.open(URL, color_scheme=scheme)
        wrong += page.accessibility()
        page.ask("markdown")
        page.ask("refuse 429")
        page.locator(".message.assistant").first.hover()
        wrong += page.accessibility()
        for button, dialog in [("#open-settings", "#settings"), ("#open-shortcuts", "#shortcuts")]:
            page.click(button)
            expect(page.locator(dialog)).to_be_visible()
            wrong += page.accessibility()
            page.keyboard.press("Escape")
        page.click("#files")
        wrong += page.accessibility()
    page = browser.open(URL, **MOBILE)
    page.ask("markdown")
    wrong += page.accessibility()
    page.click("#toggle-sidebar")
    wrong += page.accessibility()
    assert wrong == [], "\n".join(wrong)


def test_three_languages(browser):
    greetings = {"en-GB": "What is on your mind?", "ko-KR": "무엇이 궁금하세요?", "zh-CN": "想聊点什么？", "fr-FR": "What is on your mind?"}
    for locale, greeting in greetings.items():
        for options in [{}, MOBILE]:
            page = browser.open(URL, locale=locale, **options)
            expect(page.locator("#empty h2")).to_have_text(greeting)
            assert page.get_attribute("html", "lang") == locale[:2].replace("fr", "en")
            assert page.fits(), locale
            is_quiet(page)
    page = browser.open(URL, locale="en-US")
    page.ask("hello")
    page.select_option("#language", "ko")
    expect(page.locator("#new")).to_have_text("새 대화")
    expect(page.locator(".stats")).to_contain_text("초당")
    page.reload()
    expect(page.locator("#empty h2")).to_have_text("무엇이 궁금하세요?")
    assert page.get_attribute("html", "lang") == "ko"
    missing = page.evaluate(
        """async () => { const { LANGUAGES } = await import('./page/words.js'); const keys = Object.keys(LANGUAGES.en).sort().join();
            const holes = (text) => (text.match(/\\{\\w+\\}/g) ?? []).sort().join();
            return Object.entries(LANGUAGES).flatMap(([name, words]) => [
                ...(Object.keys(words).sort().join() === keys ? [] : [name]),
                ...Object.keys(words).filter((key) => holes(words[key]) !== holes(LANGUAGES.en[key])).map((key) => `${name}.${key}`)]) }"""
    )
    assert missing == [], missing
    unknown = page.evaluate(
        """async () => { const { LANGUAGES } = await import('./page/words.js');
            return [...document.querySelectorAll('[data-words]')].flatMap((element) => element.dataset.words.split(' ')).map((entry) => entry.split(':')[1]).filter((key) => !(key in LANGUAGES.en)) }"""
    )
    assert unknown == [], unknown


def test_dark_and_light(browser):
    def paper(page):
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    dark = browser.open(URL, color_scheme="dark")
    light = browser.open(URL, color_scheme="light")
    assert (paper(dark), paper(light)) == ("rgb(23, 22, 21)", "rgb(250, 248, 245)")
    dark.select_option("#theme", "light")
    assert paper(dark) == paper(light)
    dark.reload()
    assert paper(dark) == paper(light)
    dark.select_option("#theme", "auto")
    assert paper(dark) == "rgb(23, 22, 21)"


def test_a_phone(browser):
    page = browser.open(URL, **MOBILE)
    assert page.fits()
    page.fill("#message", "markdown")
    page.press("#message", "Enter")
    expect(page.locator("#message")).to_have_value("markdown\n")
    page.fill("#message", "markdown")
    # With a keyboard beside it.
    page.press("#message", "Control+Enter")
    page.settled()
    assert page.fits()
    expect(page.locator("#sidebar")).to_be_hidden()
    page.click("#toggle-sidebar")
    expect(page.locator("#close-sidebar")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#sidebar")).to_be_hidden()
    expect(page.locator("#toggle-sidebar")).to_be_focused()
    page.click("#toggle-sidebar")
    page.locator("#list .open").click()
    expect(page.locator("#sidebar")).to_be_hidden()


if __name__ == "__main__":
    browser.run("page-looks", globals())
