"""Growth with tenants: what a request and a token cost, and what a tenant takes of memory.

The tenants are a server's own: a folder of files, keys, three policies among them. Texts are fed
and rows are decoded for tenants chosen at random. A batch with many *policies* is another matter,
and measured beside it.
"""

from __future__ import annotations

import asyncio
import gc
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.host import WARM, Host
from bench.inputs import blocks, memory, policy_with, recorded
from bench.rows import NONE, Row
from bench.settings import Case, Settings
from prism.assure.costs import TEXT, pieces, timed
from prism.config import Settings as Server
from prism.http.family import Reading
from prism.http.tenancy import Tenancy
from prism.record.metrics import Metrics
from prism.tenants.keys import PEPPER_FILE, Pepper

TITLE = "Growth with tenants"
ENGINE = False
_BLOCK = 8
_POLICIES = 3
_POLICY = """\
prism: 1
id: house-{number}
extends: {base}
tiers: {{sketch: off, encoder: off, guard: off}}
rules:
  - id: house
    category: prv
    stages: [prompt, output]
    action: block
    phrases: [zephyr lantern {number}]
"""


def cases(settings: Settings) -> list[Case]:
    """Return one for each number of tenants, and one for each number of policies in a batch."""
    tenants = settings.counts((1, 1_000, 10_000), (1, 20))
    policies = settings.counts((1, 4, 16), (1, 2))
    return [*({"tenants": count} for count in tenants), *({"policies": n} for n in policies)]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield the costs of one number of tenants, or of one number of policies."""
    if "policies" in case:
        yield from _policies(settings, int(case["policies"]))
        return
    with tempfile.TemporaryDirectory() as work:
        # What every server has, however many tenants: code, and the policies' automata.
        warm, cold = Path(work) / "warm", Path(work) / "cold"
        for _ in _tenants(settings, _POLICIES, warm):
            pass
        yield from _tenants(settings, int(case["tenants"]), cold)


def _tenants(settings: Settings, count: int, folder: Path) -> Iterator[Row]:
    at = {"tenants": count}
    keys = _write(settings, count, folder)
    gc.collect()
    before = memory()
    used = time.process_time()
    server = _server(folder / "prism.yaml")
    reading = Reading(engine="vllm", max_prompt_chars=10**6, max_choices=16)
    tenancy = Tenancy(server, reading=reading, metrics=Metrics())
    yield Row.of("the folder is read", "s", [time.process_time() - used], at=at)
    rng = random.Random(count)
    chosen = [keys[rng.randrange(count)] for _ in range(256)]
    scopes = [_scope(key) for key in chosen]
    for scope in scopes[:32]:
        asyncio.run(tenancy.admit(scope))
    values = []
    for _ in range(settings.times(15)):
        taken = timed(lambda: asyncio.run(_admitted(tenancy, scopes)))
        values.append(taken.cpu / len(scopes) * 1e6)
    yield Row.of("whose request it is", "µs per request", values, at=at)
    guests = asyncio.run(_admitted(tenancy, scopes))
    words = pieces(TEXT)
    values = []
    for _ in range(settings.times(15) + 1):
        sessions = [guest.session() for guest in guests]
        taken = timed(lambda sessions=sessions: _say(sessions, words))  # type: ignore[misc]
        values.append(taken.cpu / len(sessions) / len(words) * 1e6)
    yield Row.of("text layer, 256 streams in turn", "µs per piece", values[1:], at=at)
    policies = [guest.policy for guest in guests]
    yield Row.of(
        "policies compiled", "policies", [float(len({id(p) for p in policies}))], clock=NONE, at=at
    )
    del guests, policies
    gc.collect()
    yield Row.of("memory that they add", "MiB", [max(memory() - before, 0.0)], clock=NONE, at=at)


def _scope(key: str) -> dict[str, Any]:
    head = [(b"authorization", b"Bearer " + key.encode())]
    return {"type": "http", "method": "POST", "path": "/v1/completions", "headers": head}


async def _admitted(tenancy: Tenancy, scopes: list[Any]) -> list[Any]:
    return [await tenancy.admit(scope) for scope in scopes]


def _say(sessions: list[Any], words: list[str]) -> None:
    for word in words:
        for session in sessions:
            session.feed(word)


def _server(config: Path) -> Server:
    return Server.from_env({"PRISM_CONFIG": str(config)})


def _write(settings: Settings, count: int, folder: Path) -> list[str]:
    """Write a server's configuration with ``count`` tenants; return their keys."""
    tenants = folder / "tenants"
    tenants.mkdir(mode=0o700, parents=True)
    pepper = Pepper.random()
    _private(tenants / PEPPER_FILE, pepper.secret.decode() + "\n")
    (folder / "prism.yaml").write_text("policy: policy-0.yaml\ntenants: tenants/\n")
    base = Path(settings.policy)
    shown = str(base.resolve()) if base.exists() else settings.policy
    for number in range(_POLICIES):
        (folder / f"policy-{number}.yaml").write_text(_POLICY.format(number=number, base=shown))
    keys = []
    for number in range(count):
        key = pepper.new_key()
        keys.append(key.text)
        name = f"tenant-{number}"
        text = (
            f"prism: 1\ntenant: {name}\npolicy: ../policy-{number % _POLICIES}.yaml\nkeys:\n"
            f'  - {{id: "{key.id}", hash: "{key.hash}", created: "2026-01-01T00:00:00Z"}}\n'
        )
        _private(tenants / f"{name}.yaml", text)
    return keys


def _private(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)


def _policies(settings: Settings, count: int) -> Iterator[Row]:
    """Yield what a step costs where the batch's rows are under ``count`` different policies."""
    rows = settings.pick(256, 16)
    policies = [policy_with(settings.policy, 0)]
    for number in range(1, count):
        messages: Mapping[str, str] = {"en": f"I can't help with that ({number})."}
        digest = f"{number:064x}"
        policies.append(replace(policies[0], messages=messages, digest=digest))
    host = Host(settings.model, policies[0], rows)
    host.assign(policies)
    _, cpu = host.drive(recorded(settings.model, rows, settings.pick(128, 48) + WARM))
    at = {"policies": count, "batch": rows}
    yield Row.of("a step of the token layer", "µs per step", blocks(cpu, _BLOCK), at=at)
    yield Row.of(
        "a step of the token layer",
        "µs per token and row",
        blocks([value / rows for value in cpu], _BLOCK),
        at=at,
    )
