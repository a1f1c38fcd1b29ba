"""The server of made answers that the page's tests share, and what it was asked."""

from fake_server import FakeServer

SERVER = FakeServer()
URL = SERVER.url


def last_request():
    return SERVER.requests[-1]


def is_quiet(page):
    """The page complained of nothing and asked nobody but its server."""
    assert page.complaints == [], page.complaints
    assert page.hosts == {page.url}, page.hosts
