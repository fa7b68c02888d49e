"""The façade that adapters call: one ``Moderator`` per policy, one ``Session`` per request."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prism.decide import decide
from prism.match import Matcher, Scanner
from prism.policy.compiled import CompiledPolicy
from prism.types import Action, Decision, Evidence, Match, Mode, Released, Stage, TierState

PATTERNS = "patterns"
REDACTED = "[redacted]"
_MOST_MATCHES = 256  # kept per stage for the receipt; the verdict counts every one
_log = logging.getLogger("prism")

Prompt = str | Sequence[Mapping[str, Any]]


def prompt_text(prompt: Prompt) -> str:
    """Return the text of a prompt or of chat messages, one per line, in order.

    Raises ``TypeError`` for shapes that hold text it can't see.
    """
    if isinstance(prompt, str):
        return prompt
    return "\n".join(part for message in prompt for part in _content(message.get("content")))


def _content(content: object) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if isinstance(content, Sequence):
        parts: list[str] = []
        for part in content:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                parts.append(part["text"])
            elif not isinstance(part, Mapping):
                raise TypeError(f"a content part is a {type(part).__name__}, not text")
        return parts
    raise TypeError(f"message content is a {type(content).__name__}, not text or a list of parts")


class Moderator:
    """Judges prompts and outputs under one policy. Thread-safe; make one per policy."""

    def __init__(self, policy: CompiledPolicy) -> None:
        self.policy = policy
        self._matchers = {stage: Matcher.compile(policy, stage) for stage in Stage}

    @classmethod
    def from_policy(cls, ref: str | Path, *, floor: str | Path | None = None) -> Moderator:
        """Load a policy file or a shipped policy by name. Raises ``PolicyError``."""
        from prism.policy import load_policy

        return cls(load_policy(ref, floor=floor))

    def check_prompt(self, prompt: Prompt) -> Decision:
        """Return p(x)'s verdict on a text or on chat messages."""
        return self.session().check_prompt(prompt)

    async def acheck_prompt(self, prompt: Prompt) -> Decision:
        """Do ``check_prompt`` without blocking the event loop."""
        return await asyncio.to_thread(self.check_prompt, prompt)

    def check_output(self, text: str) -> Decision:
        """Return q(Y)'s verdict on a whole text."""
        session = self.session()
        session.feed(text)
        session.finish()
        return session.decision

    def session(
        self, request_id: str | None = None, tenant: str = "default", locale: str | None = None
    ) -> Session:
        """Return the state of one request."""
        return Session(self, request_id or f"prism-{secrets.token_hex(12)}", tenant, locale)

    def scanner(self, stage: Stage) -> Scanner:
        """Return a scanner at the start of a text of ``stage``."""
        return self._matchers[stage].scanner()

    def stopping(self, rule_id: str) -> bool:
        """Return whether a match of the rule in an output ends the output.

        Steering counts: where the token layer steers, the text never gets here; where it can't, the
        text must not pass either.
        """
        rule = self.policy.rule(rule_id)
        return rule.mode is Mode.ENFORCE and rule.action in (Action.STEER, Action.BLOCK)

    def redacting(self, rule_id: str) -> bool:
        """Return whether a match of the rule in an output is replaced."""
        rule = self.policy.rule(rule_id)
        return rule.mode is Mode.ENFORCE and rule.action is Action.REDACT


@dataclass(slots=True)
class _Stream:
    """One choice's channel: what was read, what of it is still held."""

    scanner: Scanner
    held: str = ""
    base: int = 0  # offset of held[0]
    redactions: list[tuple[int, int]] | None = None
    failed: bool = False


class Session:
    """The state of one request: the prompt's verdict, one stream per choice and channel."""

    def __init__(
        self, moderator: Moderator, request_id: str, tenant: str, locale: str | None
    ) -> None:
        self.id = request_id
        self.tenant = tenant
        self._moderator = moderator
        self._locale = locale
        self._streams: dict[tuple[int, str], _Stream] = {}
        self._blocked: set[int] = set()
        self._matches: dict[Stage, list[Match]] = {Stage.PROMPT: [], Stage.OUTPUT: []}
        self._tiers: dict[Stage, dict[str, TierState]] = {Stage.PROMPT: {}, Stage.OUTPUT: {}}
        self._decision: Decision | None = None

    @property
    def policy(self) -> CompiledPolicy:
        """The policy in effect for this request."""
        return self._moderator.policy

    @property
    def message(self) -> str:
        """The refusal for this request's user."""
        return self.policy.message(self._locale)

    @property
    def channels(self) -> dict[tuple[int, str], int]:
        """Characters scanned, per choice and channel."""
        return {key: stream.scanner.read for key, stream in self._streams.items()}

    def blocked(self, choice: int = 0) -> bool:
        """Return whether nothing more of ``choice`` may go out."""
        return choice in self._blocked

    @property
    def decision(self) -> Decision:
        """The verdict on everything seen so far."""
        if self._decision is None:
            sides = [
                Evidence(tuple(self._matches[stage]), tiers=dict(self._tiers[stage]))
                if self._tiers[stage]
                else None
                for stage in Stage
            ]
            verdict = decide(sides[0], sides[1], self.policy)
            if self._blocked and verdict.action is not Action.BLOCK:
                # An output steered too late, or a refusal by the token layer.
                verdict = replace(verdict, action=Action.BLOCK, would=Action.BLOCK)
            message = self.message if verdict.blocked else None
            self._decision = replace(verdict, message=message)
        return self._decision

    def check_prompt(self, prompt: Prompt) -> Decision:
        """Judge the prompt. On a failure inside, the policy decides; by default it is blocked."""
        state = TierState.RAN
        matches: list[Match] = []
        try:
            scanner = self._moderator.scanner(Stage.PROMPT)
            matches = scanner.feed(prompt_text(prompt)) + scanner.finish()
        except Exception:
            _log.exception("the prompt check of %s failed", self.id)
            state = TierState.FAILED
        self._note(Stage.PROMPT, matches, state)
        return self.decision

    def feed(self, text: str, choice: int = 0, channel: str = "content") -> Released:
        """Read more of an output; return what of it may go to the client now."""
        return self._step(text, choice, channel, final=False)

    def finish(self, choice: int = 0, channel: str = "content") -> Released:
        """End an output's channel; return the rest that may go to the client."""
        return self._step("", choice, channel, final=True)

    def block(self, choice: int = 0) -> None:
        """Record that ``choice`` was refused elsewhere (by the token layer)."""
        self._blocked.add(choice)
        self._decision = None

    def _step(self, text: str, choice: int, channel: str, *, final: bool) -> Released:
        if choice in self._blocked:
            return Released("", True, self.decision)
        stream = self._streams.get((choice, channel))
        try:
            if stream is None:
                stream = _Stream(self._moderator.scanner(Stage.OUTPUT))
                self._streams[choice, channel] = stream
            released = self._advance(stream, text, choice, final=final)
        except Exception:
            _log.exception("the output check of %s failed", self.id)
            self._note(Stage.OUTPUT, [], TierState.FAILED)
            if self.decision.blocked:
                self._blocked.add(choice)
                return Released("", True, self.decision)
            if stream is None:
                return Released(text, False, self.decision)
            stream.failed = True
            released, stream.held = stream.held, ""
        return Released(released, choice in self._blocked, self.decision)

    def _advance(self, stream: _Stream, text: str, choice: int, *, final: bool) -> str:
        if stream.failed:  # the policy opens on failure: the rest passes unread
            return text
        stream.held += text  # first: what follows may raise
        matches = stream.scanner.feed(text) if text else []
        if final:
            matches += stream.scanner.finish()
        self._note(Stage.OUTPUT, matches, TierState.RAN)
        end = stream.scanner.read
        limit = end if final else stream.scanner.hold_from
        stops = [m.start for m in matches if self._moderator.stopping(m.rule)]
        if stops:
            limit = min(limit, *stops)
            self._blocked.add(choice)
            self._decision = None
        for match in matches:
            if self._moderator.redacting(match.rule):
                stream.redactions = [*(stream.redactions or []), (match.start, match.end)]
        return self._take(stream, limit)

    @staticmethod
    def _take(stream: _Stream, limit: int) -> str:
        """Cut what lies before ``limit`` from the held text, redactions done."""
        spans = sorted(stream.redactions or [])
        out: list[str] = []
        position = stream.base
        for start, end in spans:
            if start < limit < end:
                limit = max(start, position)  # a redaction goes out as a whole
            if end > limit or end <= position:
                continue
            if start >= position:
                out.append(stream.held[position - stream.base : start - stream.base])
                out.append(REDACTED)
            position = max(position, end)
        limit = max(limit, position)
        out.append(stream.held[position - stream.base : limit - stream.base])
        stream.held = stream.held[limit - stream.base :]
        stream.base = limit
        if spans:
            stream.redactions = [span for span in spans if span[1] > limit]
        return "".join(out)

    def _note(self, stage: Stage, matches: list[Match], state: TierState) -> None:
        tiers = self._tiers[stage]
        if matches or tiers.get(PATTERNS) is not state:
            self._decision = None
        if tiers.get(PATTERNS) is not TierState.FAILED:
            tiers[PATTERNS] = state
        kept = self._matches[stage]
        for match in matches:
            # A flood of flagged words must not push out the one match that decides.
            if len(kept) < _MOST_MATCHES or self._decides(match, kept):
                kept.append(match)

    def _decides(self, match: Match, kept: list[Match]) -> bool:
        return all(match.rule != other.rule for other in kept)
