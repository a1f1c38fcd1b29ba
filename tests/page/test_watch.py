"""The page of `dots watch` in a real browser, over made runs."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import urllib.error
import urllib.request

from playwright.sync_api import expect

import browser
from browser import MOBILE
from fake_run import FakeRun

DOTS = os.environ.get("DOTS_BIN", "target/release/dots")
MADE = tempfile.TemporaryDirectory(prefix="dots-watch-")
FOLDER = pathlib.Path(MADE.name)


def made(name, steps, seed=1):
    run = FakeRun(FOLDER / name, seed, name)
    run.write(range(1, steps + 1), steps)
    return run


class Watched:
    """`dots watch` of some runs."""

    def __init__(self, *runs):
        folders = [str(run.folder) for run in runs]
        self.process = subprocess.Popen([DOTS, "watch", *folders, "--port", "0"], stderr=subprocess.PIPE, text=True)
        self.url = re.search(r"http://[^/]+", self.process.stderr.readline()).group(0)

    def __enter__(self):
        return self.url

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)


class Page(browser.Page):
    ready = ".facts dd"


def open_page(chromium, url, **options):
    return Page(chromium.context(**options), url)


def is_quiet(page, url):
    assert page.complaints == [], page.complaints
    assert page.hosts == {url}, page.hosts


def fact(page, name):
    return page.locator(".facts div", has=page.locator("dt", has_text=re.compile(f"^{name}$"))).locator("dd").first


def canvas(page, name):
    return page.get_by_role("slider", name=name)


def test_a_run_grows_on_the_page_and_its_resume_is_followed(chromium):
    run = made("growing", 200)
    with Watched(run) as url:
        page = open_page(chromium, url)
        expect(fact(page, "Step")).to_have_text("200")
        expect(page.locator(".state")).to_have_text("running")
        run.write(range(201, 261), 200)
        run.append('{"step": 261, "lo')
        expect(fact(page, "Step")).to_have_text("260")
        # The run was killed, and goes on from a checkpoint: the metrics past it are cut.
        lines = run.file.read_text().splitlines(keepends=True)
        run.file.write_text("".join(line for line in lines[:-1] if json.loads(line)["step"] <= 150))
        expect(fact(page, "Step")).to_have_text("150")
        run.append("{broken\n")
        run.append('{"step": 151, "error": "loss is NaN", "layer": 3, "tensor": "up_proj"}\n')
        expect(page.locator(".state")).to_have_text("stopped with an error")
        expect(page.locator(".wrong")).to_have_text("Stopped at step 151: loss is NaN (layer 3, tensor up_proj)")
        expect(page.locator(".note").first).to_contain_text("could not be read: 1. The first is line")
        is_quiet(page, url)


def test_dragging_zooms_all_pictures_and_brings_detail(chromium):
    run = made("long", 4000)
    with Watched(run) as url:
        page = open_page(chromium, url)
        loss = canvas(page, re.compile("^Training loss"))
        expect(loss).to_have_attribute("aria-valuemax", "4000")
        box = loss.bounding_box()
        with page.expect_response(lambda answer: "/view/0/" in answer.url) as answer:
            page.mouse.move(box["x"] + 300, box["y"] + 80)
            page.mouse.down()
            page.mouse.move(box["x"] + 360, box["y"] + 80, steps=4)
            page.mouse.up()
        assert answer.value.json()["steps"]["width"] == 1
        for name in (re.compile("^Training loss"), "Learning rate", re.compile("^Layer 3, experts")):
            expect(canvas(page, name)).to_have_attribute("aria-valuemax", re.compile(r"^1?\d{1,3}$"))
        page.get_by_role("button", name="Whole run").click()
        expect(loss).to_have_attribute("aria-valuemax", "4000")
        # Along tokens.
        page.get_by_label("Along").select_option("tokens")
        expect(loss).to_have_attribute("aria-valuemax", str(4000 * 8192))
        is_quiet(page, url)


def test_curves_can_be_walked_with_keys(chromium):
    run = made("walked", 300)
    with Watched(run) as url:
        page = open_page(chromium, url)
        loss = canvas(page, re.compile("^Training loss"))
        loss.focus()
        page.keyboard.press("End")
        expect(loss).to_have_attribute("aria-valuetext", re.compile(r"^Step 300, walked \d\.\d+"))
        page.keyboard.press("ArrowLeft")
        expect(loss).to_have_attribute("aria-valuenow", re.compile("29[89]"))
        page.keyboard.press("+")
        expect(loss).not_to_have_attribute("aria-valuemin", "1")
        page.keyboard.press("Escape")
        expect(loss).to_have_attribute("aria-valuemin", "1")
        # The heat map names its fullest and emptiest expert.
        heat = canvas(page, re.compile("^Layer 3, experts"))
        heat.focus()
        page.keyboard.press("End")
        expect(heat).to_have_attribute("aria-valuetext", re.compile("Expert 17 0 ×"))
        expect(page.locator(".note").first).to_contain_text("layer 3 expert 17")
        is_quiet(page, url)


def test_it_is_accessible_and_fits_in_every_language_and_colour(chromium):
    runs = made("one", 300), made("two", 200, 3)
    with Watched(*runs) as url:
        for language, word in [("en-US", "Training loss"), ("ko-KR", "훈련 손실"), ("zh-CN", "训练损失")]:
            for options in [{"color_scheme": "dark"}, {"color_scheme": "light"} | MOBILE]:
                page = open_page(chromium, url, locale=language, **options)
                expect(page.locator("h3", has_text=word)).to_be_visible()
                expect(page.locator(".experts")).to_have_count(2)
                found = page.accessibility()
                assert found == [], (language, options, found[:3])
                assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
                is_quiet(page, url)


def test_a_report_needs_no_server(chromium):
    run = made("reported", 300)
    out = FOLDER / "report.html"
    subprocess.run([DOTS, "watch", str(run.folder), "--html", str(out)], check=True, stderr=subprocess.DEVNULL)
    page = Page(chromium.context(), out.as_uri())
    expect(fact(page, "Step")).to_have_text("300")
    canvas(page, "Learning rate").focus()
    page.keyboard.press("+")
    expect(page.get_by_role("button", name="Whole run")).to_be_enabled()
    assert page.complaints == [], page.complaints
    assert page.hosts == {"file://"}, page.hosts


def test_the_server_gives_its_page_and_its_runs_and_nothing_else(chromium):
    run = made("guarded", 20)
    with Watched(run) as url:
        for path in ["/page/../Cargo.toml", "/page/..%2f..%2frun.json", "/metrics.jsonl", "/view/1/0/9", "/view/0/-1/x", "/page/app.js/x"]:
            try:
                urllib.request.urlopen(url + path)
                raise AssertionError(f"{path} was answered")
            except urllib.error.HTTPError as error:
                assert error.code == 404, (path, error.code)
        request = urllib.request.Request(url + "/", headers={"Host": "evil.example:80"})
        try:
            urllib.request.urlopen(request)
            raise AssertionError("another host's name was let in")
        except urllib.error.HTTPError as error:
            assert error.code == 403
        head = urllib.request.urlopen(url + "/").headers
        assert "script-src 'self'" in head["Content-Security-Policy"]


if __name__ == "__main__":
    browser.run("page-watch", globals())
