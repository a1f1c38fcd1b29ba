"""Conversations that stay: in the browser's storage, in other tabs, in files."""

import json

from playwright.sync_api import expect

import browser
from made_answers import URL, is_quiet


def test_history_outlives_the_page(browser):
    page = browser.open(URL)
    page.ask("keep this")
    page.click("#new")
    page.ask("and this")
    page.reload()
    expect(page.locator("#list .open")).to_have_count(2)
    expect(page.locator("#thread")).to_be_hidden()
    page.locator("#list .open", has_text="keep this").click()
    expect(page.locator(".message.assistant .body")).to_have_text("You said: keep this")
    page.fill("#search", "AND this")
    expect(page.locator("#list .open")).to_have_count(1)
    page.fill("#search", "")
    page.locator("#list li", has_text="and this").hover()
    page.get_by_label("Rename: and this").click()
    page.keyboard.type("Renamed")
    page.keyboard.press("Enter")
    page.locator("#list li", has_text="Renamed").hover()
    page.get_by_label("Delete: Renamed").click()
    expect(page.locator("#confirm-no")).to_be_focused()
    page.click("#confirm-yes")
    expect(page.locator("#list .open")).to_have_count(1)
    assert [one["title"] for one in page.stored()] == ["keep this"]
    is_quiet(page)


def test_a_page_that_goes_in_the_middle_of_an_answer_keeps_what_came(browser):
    page = browser.open(URL)
    page.type_and_send("slow 500")
    expect(page.locator(".message.assistant .body")).to_contain_text("word9")
    page.reload()
    page.locator("#list .open").click()
    answer = page.locator(".message.assistant")
    expect(answer.locator(".body")).to_contain_text("word9")
    expect(answer.locator(".notice")).to_contain_text("The connection ended before the answer did.")
    answer.get_by_role("button", name="Try again").click()
    expect(page.locator(".message.assistant.growing")).to_have_count(1)
    page.keyboard.press("Escape")


def test_what_was_not_sent_yet_outlives_a_reload(browser):
    page = browser.open(URL)
    page.fill("#message", "half a thought")
    page.reload()
    expect(page.locator("#message")).to_have_value("half a thought")
    expect(page.locator("#send")).to_be_enabled()
    page.ask("whole")
    page.reload()
    expect(page.locator("#message")).to_have_value("")


def test_a_full_storage_loses_nothing(browser):
    page = browser.open(URL)
    page.ask("before")
    page.evaluate(
        """() => { for (let size = 1 << 20; size > 0; size >>= 1)
            for (let i = 0; i < 6; i++) try { localStorage.setItem(`filler${size}-${i}`, 'x'.repeat(size)); } catch {} }"""
    )
    page.ask("during " + "y" * 3000)
    page.ask("and on")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("This browser's storage is full")
    expect(page.locator(".mark.not_saved")).to_have_count(1)
    page.click("#new")
    page.ask("another")
    page.locator("#list .open", has_text="before").click()
    expect(page.locator(".message")).to_have_count(6)
    with page.expect_download() as download:
        notice.get_by_role("button").click()
    exported = json.loads(open(download.value.path()).read())
    assert len(exported["conversations"]) == 2
    # With room again, all is saved with the next deletion or message.
    page.evaluate("() => Object.keys(localStorage).filter((key) => !key.startsWith('dots.')).forEach((key) => localStorage.removeItem(key))")
    page.locator("#list li", has_text="another").hover()
    page.get_by_label("Delete: another").click()
    page.click("#confirm-yes")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert [len(one["nodes"]) for one in page.stored()] == [6]


def test_a_browser_that_keeps_nothing(browser):
    context = browser.context()
    context.add_init_script("for (const name of ['localStorage', 'sessionStorage']) Object.defineProperty(window, name, {get() { throw new DOMException('no', 'SecurityError') }})")
    page = type(browser.open(URL))(context, URL)
    answer = page.ask("hello")
    expect(answer.locator(".body")).to_have_text("You said: hello")
    expect(page.get_by_role("alert")).to_contain_text("keeps nothing")


def test_two_tabs_share_their_conversations(browser):
    context = browser.context()
    Page = type(browser.open(URL))
    one, two = Page(context, URL), Page(context, URL)
    one.ask("from one")
    two.locator("#list .open", has_text="from one").click()
    two.ask("from two")
    expect(one.locator(".message")).to_have_count(4)
    one.ask("again one")
    expect(two.locator(".message")).to_have_count(6)
    assert len(one.stored()[0]["nodes"]) == 6
    # An answer that grows in one is seen in the other when it is saved.
    one.type_and_send("slow 150")
    one.settled()
    expect(two.locator(".message.assistant .body").last).to_contain_text("word149")
    expect(two.locator(".message.assistant .notice:visible")).to_have_count(0)


def test_export_and_import(browser):
    page = browser.open(URL)
    page.click("#open-settings")
    page.fill("#system", "Be brief.")
    page.keyboard.press("Escape")
    page.ask("markdown").get_by_label("Answer again").click()
    page.settled()

    def export(button):
        page.click("#files")
        with page.expect_download() as download:
            page.click(button)
        return download.value.suggested_filename, open(download.value.path()).read()

    name, markdown = export("#export-markdown")
    assert name == "markdown.md"
    assert markdown.startswith("# markdown\n\n## System\n\nBe brief.\n\n## You\n\nmarkdown\n\n## dots (dots.llm1)\n\n# A heading"), markdown[:200]
    name, text = export("#export-json")
    exported = json.loads(text)
    assert (name, exported["format"], exported["version"]) == ("markdown.json", "dots.chat", 1)
    assert export("#export-all")[1] == text

    def give(name, content):
        page.set_input_files("#import-file", {"name": name, "mimeType": "application/json", "buffer": content.encode()})

    give("back.json", text)
    expect(page.locator("#toast")).to_have_text("Imported: 1")
    expect(page.locator("#list .open")).to_have_count(2)
    expect(page.locator(".message.assistant .versions")).to_contain_text("2/2")
    give("messages.json", json.dumps({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}]}))
    expect(page.locator(".message.assistant .body")).to_have_text("A")
    assert page.input_value("#system") == "S"
    for content, reason in [
        ("{", "expected JSON"),
        ("{}", 'format: expected "dots.chat", found nothing'),
        ('{"format": "dots.chat", "version": 2}', "version: expected 1, found 2"),
        ('{"format": "dots.chat", "version": 1, "conversations": [{"id": "__proto__", "nodes": []}]}', 'conversations[0].id: expected letters and digits, found "__proto__"'),
        ('[{"role": "tool", "content": ""}]', '[0].role: expected "user" or "assistant", found "tool"'),
        (text.replace('"parent": null', '"parent": "nobody"'), "expected the id of a message before"),
    ]:
        give("bad.json", content)
        expect(page.locator("#toast")).to_contain_text(reason)
    expect(page.locator("#list .open")).to_have_count(3)
    is_quiet(page)


if __name__ == "__main__":
    browser.run("page-history", globals())
