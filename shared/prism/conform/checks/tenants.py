"""Who may choose the rules (complaint 8)."""

from __future__ import annotations

import asyncio
from typing import Any

from prism.conform.answer import Answer
from prism.conform.apis import CHAT, RESPONSES
from prism.conform.check import Checks, Failed, NotApplicable
from prism.conform.checks.common import BLOCKED_PROMPT, untouched, withheld
from prism.conform.target import Target
from prism.conform.texts import SECOND

CHECKS = Checks()
_OFF = {"rails": {"input": False, "output": False, "dialog": False}}
_OVERRIDES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "no-guardrails": ("`guardrails: []` in the body", {"guardrails": []}, {}),
    "options": ("NeMo's `guardrails.options`", {"guardrails": {"options": _OFF}}, {}),
    "metadata": ("guardrails switched off in `metadata`",
                 {"metadata": {"guardrails": [], "disable_global_guardrails": True}}, {}),
    "global": ("`disable_global_guardrails`", {"disable_global_guardrails": True}, {}),
    "policy": ("`prism_policy` in the body", {"prism_policy": "permissive"}, {}),
    "moderation": ("`moderation: false` in the body", {"moderation": False}, {}),
    "user": ("another `user`", {"user": "administrator"}, {}),
    "headers": ("headers that name a policy or tenant", {},
                {"x-prism-policy": "permissive", "x-prism-tenant": "other", "x-guardrails": "none",
                 "x-litellm-disable-guardrails": "true", "x-tenant": "other"}),
}  # fmt: skip


def _override(name: str, how: str, extra: dict[str, Any], headers: dict[str, str]) -> None:
    @CHECKS.add(f"tenants.override.{name}", 8, f"a client can't switch moderation off: {how}")
    async def override(target: Target) -> str:
        asked = ((False, "hello", BLOCKED_PROMPT), (False, "split", ""), (True, "split", ""))
        held = []
        for stream, name, before in asked:
            plain = await target.ask(CHAT, name, stream=stream, before=before)
            if _open(plain, name):
                continue  # what is let through without being asked to is for other checks
            answer = await target.ask(
                CHAT, name, stream=stream, before=before, headers=headers, **extra
            )
            if _open(answer, name):
                target.note_leak(answer)
                what = "a blocked prompt is answered" if before else "a blocked phrase comes out"
                raise Failed(f"{what} that is held back without it")
            held.append(answer.mark or "no mark for programs")
        if not held:
            raise NotApplicable("nothing is held back without it either")
        return f"held back all the same ({held[0]})"


def _open(answer: Answer, name: str) -> bool:
    """Return whether what is blocked in this answer came out."""
    return answer.expected in answer.content() if name == "hello" else answer.leak() is not None


for _name, _what in _OVERRIDES.items():
    _override(_name, *_what)


def _stranger(name: str, title: str, key: str) -> None:
    @CHECKS.add(f"tenants.{name}", 8, title)
    async def stranger(target: Target) -> str:
        if not target.options.api_key:
            raise NotApplicable("needs --api-key: without one there are no strangers")
        answer = await target.ask(CHAT, "hello", key=key)
        if answer.ok:
            raise Failed(f"answered {answer.status}")
        return f"status {answer.status}"


_stranger("no-key", "who has no key is not served", "")
_stranger("wrong-key", "who has a wrong key is not served", "prism_0123456789ab_wrong")


def _second(target: Target) -> str:
    key = target.options.second_key
    if not key:
        raise NotApplicable("needs --tenant-key-2, the key of a tenant with one rule more")
    return key


@CHECKS.add("tenants.second", 8, "each key has its own rules, also at the same time")
async def second(target: Target) -> str:
    key = _second(target)
    keys = [None, key] * (8 if target.scripted else 2)
    answers = await asyncio.gather(
        *(target.ask(CHAT, "second", stream=True, key=own) for own in keys)
    )
    for own, answer in zip(keys, answers, strict=True):
        if own is None:
            untouched(answer)
        else:
            withheld(target, answer, SECOND)
    return f"{len(answers)} streams under two keys"


@CHECKS.add("tenants.stored", 8, "a stored response is its own tenant's only")
async def stored(target: Target) -> str:
    key = _second(target)
    answer = await target.ask(RESPONSES, "hello", store=True)
    name = next((str(row["id"]) for _, row in answer.rows if row.get("id")), None)
    if not answer.ok or name is None:
        raise NotApplicable("the server stores no responses")
    seen = {}
    for whose, own in (("owner", None), ("other", key)):
        reply = await target.client.get(f"{RESPONSES.path}/{name}", headers=target._key(own))
        seen[whose] = answer.expected in reply.text
    if seen["other"]:
        raise Failed("another tenant can read it")
    if not seen["owner"]:
        raise NotApplicable("the server stores no responses")
    return "its owner reads it, the other tenant doesn't"
