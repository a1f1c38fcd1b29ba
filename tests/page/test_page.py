"""The page in a real browser, over answers made for the purpose."""

import json
import re
import time

from playwright.sync_api import expect

import browser
from browser import MOBILE
from fake_server import ANSWERS, FakeServer

SERVER = FakeServer()
URL = SERVER.url


def last_request():
    return SERVER.requests[-1]


def is_quiet(page):
    assert page.complaints == [], page.complaints
    assert page.hosts == {page.url}, page.hosts


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
    browser.run("page", globals())
