"""Policies of tenants that change while the server runs."""

from __future__ import annotations

import os
import time
from itertools import count
from pathlib import Path

import pytest

from prism.documents import Problem
from prism.tenants import KeyState, TenantError

_ticks = count(10)


def put(name: str, text: str) -> None:
    """Write a file so that its time is another one, and long enough ago to be sure of."""
    Path(name).write_text(text)
    moment = time.time_ns() - 10**9 * (10_000 - next(_ticks))
    os.utime(name, ns=(moment, moment))


def policy(name: str, phrase: str, *more: str) -> str:
    rule = f"  - {{id: {name}, category: prv, action: block, phrases: [{phrase}]}}\n"
    return f"prism: 1\nid: {name}\n" + "".join(more) + "rules:\n" + rule


def phrases(tenants, name: str) -> set[str]:
    rules = tenants.tenants[name].policy.rules
    return {p for rule in rules if rule.id != "prism.selftest" for p in rule.phrases}


@pytest.fixture
def acme(write, store):
    """The store, with a tenant on a policy of its own."""
    put("other.yaml", policy("other", "violet teapot"))
    write("acme", policy="../other.yaml")
    write("plain")
    store.load()
    os.utime("tenants", ns=(0, time.time_ns() - 10**10))
    assert store.stamp() is not None
    return store


def test_a_policy_that_a_tenant_names_is_read_again(acme):
    before = acme.stamp()
    put("other.yaml", policy("other", "copper walrus"))
    assert acme.stamp() != before
    tenants, problems = acme.reload()
    assert problems == ()
    assert phrases(tenants, "acme") == {"copper walrus", "zephyr lantern"}  # floor and all
    assert phrases(tenants, "plain") == {"amber quokka", "zephyr lantern"}
    again, _ = acme.reload()
    assert again.tenants["acme"] is tenants.tenants["acme"]  # nothing is made twice


def test_what_the_policy_extends_and_its_lists_are_watched_too(acme):
    put("base.yaml", policy("base", "copper walrus"))
    put("names.txt", "tin heron\n")
    listed = "  - {id: names, category: prv, action: block, phrases_from: names.txt}\n"
    put("other.yaml", policy("other", "violet teapot", "extends: base.yaml\n") + listed)
    tenants, problems = acme.reload()
    assert problems == ()
    assert {"copper walrus", "tin heron", "violet teapot"} < phrases(tenants, "acme")
    put("base.yaml", policy("base", "brass otter"))
    assert "brass otter" in phrases(acme.reload()[0], "acme")
    put("names.txt", "lead magpie\n")
    assert "lead magpie" in phrases(acme.reload()[0], "acme")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prism: [", "other.yaml:1:9: is not valid YAML"),
        ("prism: 1\nid: other\nrules: [{id: other}]\n", "the new rule 'other' has no category"),
        ("prism: 1\nid: other\nextends: nowhere.yaml\n", "no such file: nowhere.yaml"),
        (None, "other.yaml: no such file"),
    ],
)
def test_a_policy_that_is_wrong_counts_as_it_was(acme, write, text, message):
    if text is None:
        Path("other.yaml").unlink()
    else:
        put("other.yaml", text)
    tenants, problems = acme.reload()
    assert message in "\n".join(map(str, problems))
    assert phrases(tenants, "acme") == {"violet teapot", "zephyr lantern"}
    # Others go on changing, and so do this tenant's keys.
    new = write("new")
    mine = write("acme", policy="../other.yaml")
    tenants, problems = acme.reload()
    assert problems
    assert tenants.find(new.text, 0).state is KeyState.LIVE
    assert tenants.find(mine.text, 0).state is KeyState.LIVE
    assert phrases(tenants, "acme") == {"violet teapot", "zephyr lantern"}
    put("other.yaml", policy("other", "copper walrus"))
    tenants, problems = acme.reload()
    assert problems == ()
    assert phrases(tenants, "acme") == {"copper walrus", "zephyr lantern"}


def test_a_missing_part_is_noticed_when_it_comes(acme):
    put("other.yaml", "prism: 1\nid: other\nextends: late.yaml\n")
    assert acme.reload()[1]
    before = acme.stamp()
    put("late.yaml", policy("late", "copper walrus"))
    assert acme.stamp() != before
    tenants, problems = acme.reload()
    assert problems == ()
    assert "copper walrus" in phrases(tenants, "acme")


def test_a_file_that_is_still_being_written_waits(acme):
    Path("other.yaml").write_text(policy("other", "copper walrus"))  # now: more may come
    assert acme.stamp() is None
    assert "violet teapot" in phrases(acme.reload()[0], "acme")


def test_a_file_dated_in_the_future_is_read_too(acme):
    Path("other.yaml").write_text(policy("other", "copper walrus"))
    tomorrow = time.time_ns() + 86_400 * 10**9
    os.utime("other.yaml", ns=(tomorrow, tomorrow))
    assert "copper walrus" in phrases(acme.reload()[0], "acme")


def test_the_servers_own_policy_and_the_floor_stay_as_they_were(acme):
    put("house.yaml", policy("house", "copper walrus"))
    put("floor.yaml", "prism: 1\nid: floor\n")
    put("other.yaml", policy("other", "brass otter"))
    tenants, problems = acme.reload()
    assert problems == ()
    assert phrases(tenants, "plain") == {"amber quokka", "zephyr lantern"}
    assert phrases(tenants, "acme") == {"brass otter", "zephyr lantern"}


def test_a_policy_that_the_server_cannot_serve_holds_nobody_else_up(acme, write):
    def accept(made) -> None:
        if any("copper walrus" in rule.phrases for rule in made.rules):
            raise TenantError([Problem("policy", 0, 0, "", "can't be served", "")])

    put("other.yaml", policy("other", "copper walrus"))
    new = write("new")
    tenants, problems = acme.reload(accept)
    assert [p.message for p in problems] == ["can't be served"]
    assert "violet teapot" in phrases(tenants, "acme")
    assert tenants.find(new.text, 0).state is KeyState.LIVE


def test_what_nobody_names_any_more_is_forgotten(acme, write):
    shelf = acme.shelf
    for number in range(20):
        put("other.yaml", policy("other", f"violet teapot {number}"))
        write("acme", policy="../other.yaml", overrides={"locale": "en", "messages": {
            "en": f"Not here, {number}."}})  # fmt: skip
        acme.reload()
    assert len(shelf._made) == len(shelf._by_digest) == 2  # acme's, and plain's: the server's own
    write("acme")
    acme.reload()
    assert set(shelf._sources) == {""}
