"""A real browser for the tests: pages that watch themselves, and words for what a person does on them."""

import os
import pathlib
import shutil
import sys
import traceback

from playwright.sync_api import expect, sync_playwright

BROWSERS = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
AXE = os.environ.get("AXE_JS")
MOBILE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

expect.set_options(timeout=5000)


def installed():
    """Where the browser is."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    return path or sys.exit(f"no browser: tried {', '.join(BROWSERS)}")


class Browser:
    def __init__(self, playwright):
        path = installed()
        self.chromium = playwright.chromium.launch(executable_path=path)
        self.contexts = []

    def context(self, **options):
        options = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | options
        context = self.chromium.new_context(**options)
        context.set_default_timeout(10_000)
        self.contexts.append(context)
        return context

    def open(self, url, **options):
        return Page(self.context(**options), url)

    def close_contexts(self):
        for context in self.contexts:
            context.close()
        self.contexts.clear()


class Page:
    """A page that notes what it said on the console and whom it asked."""

    # What is there once the page has begun.
    ready = "#model option"

    def __init__(self, context, url):
        self.context = context
        self.url = url
        self.complaints = []
        self.hosts = set()
        self.page = context.new_page()
        self.page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add("/".join(request.url.split("/")[:3])))
        self.page.goto(url)
        expect(self.page.locator(self.ready).first).to_be_attached()

    def __getattr__(self, name):
        return getattr(self.page, name)

    def type_and_send(self, text):
        self.page.fill("#message", text)
        self.page.click("#send")

    def ask(self, text):
        """Sends, waits for the end of the answer, and returns its element."""
        count = self.page.locator(".message.assistant").count()
        self.type_and_send(text)
        expect(self.page.locator(".message.assistant")).to_have_count(count + 1)
        return self.settled()

    def settled(self):
        expect(self.page.locator("#send")).to_be_visible(timeout=20_000)
        return self.page.locator(".message.assistant").last

    def stored(self):
        """The conversations in local storage."""
        return self.page.evaluate(
            "() => Object.entries(localStorage).filter(([key]) => key.startsWith('dots.chat.')).map(([, text]) => JSON.parse(text))"
        )

    def accessibility(self):
        """What axe-core finds wrong, as text."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(pathlib.Path(AXE).read_text())
        found = self.page.evaluate(
            "() => axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
        )
        return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found["violations"] for node in one["nodes"]]

    def fits(self):
        """Whether nothing reaches over the page's side."""
        return self.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth && document.getElementById('main').scrollWidth <= innerWidth")


def run(name, module):
    """Runs the functions of a module whose names begin with `test_`, with arguments only those that have one in their names, and
    counts. A module must have tests; words need not be of this one."""
    wanted = sys.argv[1:]
    passed = failed = 0
    with sync_playwright() as playwright:
        browser = Browser(playwright)
        for test_name, test in list(module.items()):
            if not test_name.startswith("test_") or (wanted and not any(word in test_name for word in wanted)):
                continue
            try:
                test(browser)
                passed += 1
            except Exception:
                failed += 1
                print(f"{name}: {test_name} failed", file=sys.stderr)
                traceback.print_exc()
            browser.close_contexts()
        browser.chromium.close()
    print(f"{name}: {passed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not (passed or wanted) else 0)


if __name__ == "__main__":
    installed()
