"""The web page: every check is in it, and nothing in it is more than text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser

from prism.conform.check import Outcome, Result
from prism.conform.checks import CHECKS, COMPLAINTS
from prism.conform.report import html
from prism.conform.suite import Report

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UNKIND = "</td><script>alert('&')</script><img src=\"//x\">"


class Page(HTMLParser):
    """What is in a page: its elements, what they refer to, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.said: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.said.append(data)


def page_of(results: Sequence[Result], url: str = "http://h:1", **voices: str) -> Page:
    return Page(html(Report(url, voices, tuple(results)), WHEN))


def test_every_check_is_in_it() -> None:
    kinds = list(Outcome)
    results = [
        Result(check, kinds[number % 4], f"evidence {number}.", number / 100)
        for number, check in enumerate(CHECKS)
    ]
    page = page_of(results, chat="script")
    assert page.open == []
    for number, check in enumerate(CHECKS):
        # What failed or could not be carried out stands at the top as well.
        times = 1 + (results[number].outcome in (Outcome.FAILED, Outcome.ERROR))
        assert page.said.count(check.name) == times
        assert page.said.count(f"evidence {number}.") == times
    for number, name in COMPLAINTS.items():
        assert f"{number}. {name}" in page.said
    assert page.said.count("script") == 1
    assert "2026-01-02 03:04:05+00:00" in page.said
    assert "A check failed." in page.said


def test_a_run_without_fault_says_so() -> None:
    passed = Result(CHECKS[0], Outcome.PASSED, "fine", 0.1)
    unasked = Result(CHECKS[1], Outcome.NOT_APPLICABLE, "not here", 0.1)
    assert "Everything that could be asked passed." in page_of([passed, unasked]).said
    nothing = page_of([unasked])
    assert any(text.startswith("Not a result") for text in nothing.said)
    assert "Failed" not in nothing.said


def test_what_a_server_says_is_text() -> None:
    page = page_of([Result(CHECKS[0], Outcome.FAILED, UNKIND, 0.1)], f"http://h/{UNKIND}", x=UNKIND)
    assert page.open == []
    assert not {"script", "img", "a", "link", "iframe"} & set(page.tags)
    assert page.attributes == {"lang", "charset", "http-equiv", "content", "name", "class"}
    assert page.said.count(UNKIND) == 3
    assert page.said.count(f"Conformance of http://h/{UNKIND}") == 2
