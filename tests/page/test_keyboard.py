"""The page without a mouse: keys, and where the focus is."""

from playwright.sync_api import expect

import browser
from made_answers import URL, is_quiet, last_request


def test_the_keyboard_is_enough(browser):
    page = browser.open(URL)
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.type("first line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    expect(page.locator("#message")).to_have_value("first line\nsecond line")
    # Enter that ends the composition of a character does not send.
    page.evaluate("() => document.getElementById('message').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true}))")
    assert page.locator(".message").count() == 0
    page.keyboard.press("Enter")
    page.settled()
    assert last_request()["messages"][0]["content"] == "first line\nsecond line"
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Edit your message")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("edited")
    page.keyboard.press("Enter")
    expect(page.settled().locator(".body")).to_have_text("You said: edited")
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.press("Control+/")
    expect(page.locator("#shortcuts")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#shortcuts")).to_be_hidden()
    page.keyboard.press("Control+,")
    expect(page.locator("#settings")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+O")
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#message")).to_be_focused()
    page.keyboard.press("Control+K")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".message")).to_have_count(2)
    page.keyboard.press("Control+Shift+S")
    expect(page.locator("#sidebar")).to_be_hidden()
    page.keyboard.press("Control+Shift+S")
    page.locator("#files").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#export-markdown")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#export-json")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#files")).to_be_focused()
    is_quiet(page)


def test_tab_goes_round_in_reading_order_and_is_seen(browser):
    page = browser.open(URL)
    page.ask("markdown")
    page.locator(".skip").focus()
    # The focus, and how it got there: a failure tells both.
    page.evaluate(
        """() => { window.moves = []; const name = (e) => e && (e.id || e.className || e.localName);
            for (const type of ['focusin', 'focusout']) document.addEventListener(type, (event) => moves.push(`${type} ${name(event.target)}, other ${name(event.relatedTarget)}`)) }"""
    )
    seen, unseen = ["skip"], []
    while seen[-1] != "message" and len(seen) < 60:
        page.keyboard.press("Tab")
        element, is_seen = page.evaluate(
            """() => { const e = document.activeElement, box = e.closest('.box'), s = getComputedStyle(e);
                return [e.id || e.className || e.localName, s.outlineStyle !== 'none' || (box && getComputedStyle(box).boxShadow.includes('1px'))] }"""
        )
        seen.append(element)
        if not is_seen:
            unseen.append(element)
    assert unseen == [], f"not seen: {unseen} of {seen}; {page.evaluate('() => moves')}"
    order = [seen.index(one) for one in ["skip", "new", "search", "open", "language", "toggle-sidebar", "model", "open-settings", "quiet copy-code", "message"]]
    assert order == sorted(order), seen


def test_the_focus_is_never_lost(browser):
    page = browser.open(URL)
    focused = "() => document.activeElement.id || document.activeElement.getAttribute('aria-label') || document.activeElement.localName"
    page.ask("markdown")
    page.ask("markdown")
    to_top = "() => { const m = document.getElementById('main'); m.scrollTop = 0 }"
    to_end = "() => { const m = document.getElementById('main'); m.scrollTop = m.scrollHeight }"
    # The button that goes to the end is on its way out while one is on it, or presses it.
    for leave in [lambda: page.evaluate(to_end), lambda: page.keyboard.press("Enter")]:
        page.evaluate(to_top)
        expect(page.locator("#jump")).to_be_visible()
        page.locator("#jump").focus()
        leave()
        expect(page.locator("#jump")).to_be_hidden()
        assert page.evaluate(focused) == "message"
    # What is made anew when an answer ends: another message's versions and remedies, and the list.
    page.ask("hello").get_by_label("Answer again").click()
    page.settled()
    page.ask("refuse 500")
    for button in [page.get_by_label("Previous version"), page.get_by_role("button", name="Try again"), page.get_by_label("Delete: markdown")]:
        page.type_and_send("slow 30")
        button.focus()
        page.settled()
        expect(button).to_be_focused()
    # A name that is being written when an answer ends is not cut off.
    page.type_and_send("slow 60")
    page.get_by_label("Rename: markdown").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("half")
    page.settled()
    page.keyboard.type(" and whole")
    page.keyboard.press("Enter")
    expect(page.locator("#list .open")).to_have_text("half and whole")
    expect(page.locator("#list .open")).to_be_focused()
    # The sidebar goes away.
    page.keyboard.press("Control+Shift+S")
    expect(page.locator("#sidebar")).to_be_hidden()
    assert page.evaluate(focused) == "toggle-sidebar"


if __name__ == "__main__":
    browser.run("page-keyboard", globals())
