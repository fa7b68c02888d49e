"""The state of one request: its prompt's verdict, and a stream per choice and channel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from prism.channel import Channel, mark
from prism.classify.cascade import Asked, Cascade, Reading
from prism.classify.checkpoints import Checkpoints
from prism.classify.deadline import Busy
from prism.conversation import Prompt, last_turn, readings, turns, views
from prism.decide import decide
from prism.types import Action, Decision, Evidence, Match, Released, Stage, TierState

if TYPE_CHECKING:
    from prism.moderator import Moderator
    from prism.policy.compiled import CompiledPolicy

PATTERNS = "patterns"
_PATTERNS_RAN = {PATTERNS: TierState.RAN}
TURNS = "turns"
"""In ``via``: seen in some speakers' turns alone, or in fields put together; offsets count in
those."""
_MOST_MATCHES = 256  # kept per stage for the receipt; the verdict counts every one
_log = logging.getLogger("prism")


class Session:
    """The state of one request: the prompt's verdict, one stream per choice and channel.

    ``check_prompt``, ``feed`` and ``finish`` may wait for a model where :meth:`waits` says so,
    never longer than its deadline; their async twins don't block the event loop. The prompt and the
    outputs may be judged in two threads at once; outputs are for one at a time.
    """

    def __init__(
        self, moderator: Moderator, request_id: str, tenant: str, locale: str | None
    ) -> None:
        self.id = request_id
        self.tenant = tenant
        self._moderator = moderator
        self._locale = locale
        self._asked = Asked()
        self._streams: dict[tuple[int, str], Channel] = {}
        self._blocked: set[int] = set()
        self._matches: dict[Stage, list[Match]] = {Stage.PROMPT: [], Stage.OUTPUT: []}
        self._tiers: dict[Stage, dict[str, TierState]] = {Stage.PROMPT: {}, Stage.OUTPUT: {}}
        self._read: dict[Stage, Reading] = {}
        self._version = 0  # of what is known: another thread may add to it while one decides
        self._decision: tuple[int, Decision] | None = None

    @property
    def policy(self) -> CompiledPolicy:
        """The policy in effect for this request."""
        return self._moderator.policy

    @property
    def never_waits(self) -> bool:
        """Whether :meth:`waits` is never so."""
        return self._moderator.never_waits

    @property
    def locale(self) -> str | None:
        """The locale that this request's user is refused in, ``None`` for the default."""
        return self._locale

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
        known = self._decision
        if known is not None and known[0] == self._version:
            return known[1]
        version = self._version
        if (shared := self._on_nothing()) is not None:
            self._decision = (version, shared)
            return shared
        verdict = decide(self._evidence(Stage.PROMPT), self._evidence(Stage.OUTPUT), self.policy)
        if self._blocked and verdict.action is not Action.BLOCK:
            # An output steered too late, a score without a place to redact, or a refusal by the
            # token layer.
            verdict = replace(verdict, action=Action.BLOCK, would=Action.BLOCK)
        if verdict.blocked:
            verdict = replace(verdict, message=self.message)
        self._decision = (version, verdict)
        return verdict

    def _on_nothing(self) -> Decision | None:
        """Return the verdict that all share of whom patterns have read all, and found nothing."""
        if self._blocked or self._read or any(self._matches.values()):
            return None
        ran = [stage for stage, tiers in self._tiers.items() if tiers]
        if any(self._tiers[stage] != _PATTERNS_RAN for stage in ran):
            return None
        return self._moderator.on_nothing(*ran)

    def _evidence(self, stage: Stage) -> Evidence | None:
        if not self._tiers[stage]:
            return None
        tiers = dict(self._tiers[stage])
        tiers |= dict.fromkeys(self._moderator.cascades[stage].tiers, TierState.NOT_RUN)
        read = self._read.get(stage, Reading())
        tiers |= read.tiers
        matches = tuple(self._matches[stage])
        return Evidence(matches, read.scores, tiers, read.rules, read.language)

    def waits(self, chars: int, *, ends: bool = True) -> bool:
        """Return whether judging ``chars`` more characters may wait for a model.

        Before anything was judged that is the prompt. ``ends=False`` promises that no channel ends
        with them; ``feed(…, wait=False)`` then never waits where this says so: what a model must
        see first stays held until the next call.
        """
        if self._moderator.never_waits:
            return False
        if self._moderator.reads_names:
            return True
        cascades = self._moderator.cascades
        fresh = not self._tiers[Stage.PROMPT] and not self._streams
        if fresh and any(cascade.may_wait for cascade in cascades.values()):
            return True
        if not cascades[Stage.OUTPUT].may_wait:
            return False
        if ends:
            return True
        # Where text flows now, a checkpoint that turns out doubtful can wait for the next call.
        return any(s.marks is not None and not s.marks.sure for s in self._streams.values())

    def passed(self, stage: Stage) -> Decision:
        """Return the verdict where patterns have read all of ``stage`` and found nothing."""
        self._note(stage, [], TierState.RAN)
        return self.decision

    def failed(self, stage: Stage, matches: Sequence[Match] = ()) -> Decision:
        """Return the verdict where the check of ``stage`` raised, which is on its way here."""
        _log.exception("the %s check of %s failed", stage.value, self.id)
        self._note(stage, matches, TierState.FAILED)
        return self.decision

    def answers(self, prompt: Prompt) -> None:
        """Say what the outputs answer. ``check_prompt`` does too, and judges it."""
        self._asked = Asked(tuple(turns(prompt)), last_turn(prompt))

    def check_prompt(self, prompt: Prompt) -> Decision:
        """Judge the prompt. On a failure inside, the policy decides; by default it is blocked.

        Raises ``Busy`` where no model thread will come free: then nothing was judged.
        """
        matches: list[Match] = []
        try:
            for number, text in enumerate(views(prompt)):
                found = self._moderator.found(Stage.PROMPT, text)
                seen = {match.rule for match in matches}
                if number:
                    found = [replace(m, via=(*m.via, TURNS)) for m in found if m.rule not in seen]
                matches += found
        except Exception:
            return self.failed(Stage.PROMPT, matches)
        self._note(Stage.PROMPT, matches, TierState.RAN)
        if self._moderator.scores:
            self.answers(prompt)
        cascade = self._moderator.cascades[Stage.PROMPT]
        if cascade.active:
            self._score(Stage.PROMPT, self._prompt_scores(cascade, prompt))
        return self.decision

    async def acheck_prompt(self, prompt: Prompt) -> Decision:
        """Do ``check_prompt`` without blocking the event loop."""
        return await asyncio.to_thread(self.check_prompt, prompt)

    def _prompt_scores(self, cascade: Cascade, prompt: Prompt) -> Reading:
        try:
            blocked = lambda: self.decision.blocked  # noqa: E731
            return cascade.prompt(readings(prompt), self._asked, blocked=blocked)
        except Busy:
            raise
        except Exception:
            return cascade.failed("score")

    def allows(self, text: str) -> bool:
        """Return whether patterns find nothing in a text beside the outputs that none may say.

        For words that no model chose freely: a header, a stop string. Never waits.
        """
        rules = {match.rule for match in self._moderator.found(Stage.OUTPUT, text)}
        return not any(map(self._moderator.stopping, rules)) and not any(
            map(self._moderator.redacting, rules)
        )

    def feed(
        self, text: str, choice: int = 0, channel: str = "content", *, wait: bool = True
    ) -> Released:
        """Read more of an output; return what of it may go to the client now.

        ``wait=False``: don't wait for a model; see :meth:`waits`.
        """
        released = self.flow(text, choice, channel, wait=wait)
        return Released(released, choice in self._blocked, self.decision)

    def finish(self, choice: int = 0, channel: str = "content") -> Released:
        """End an output's channel; return the rest that may go to the client."""
        released = self.end(choice, channel)
        return Released(released, choice in self._blocked, self.decision)

    def flow(
        self, text: str, choice: int = 0, channel: str = "content", *, wait: bool = True
    ) -> str:
        """Do ``feed`` for who wants the text alone; :meth:`blocked` says whether more will come."""
        stream = self._streams.get((choice, channel))
        # This runs for every token; most are read by no score model, and nothing is found.
        if stream is None or not stream.plain or choice in self._blocked:
            return self._step(text, choice, channel, final=False, wait=wait)
        stream.held += text  # first: what follows may raise
        try:
            matches = stream.scanner.feed(text)
            return stream.take(self._found(stream, matches, choice)) if matches else stream.flow()
        except Exception:
            return self._fail(stream, text, choice)

    def token(self, data: bytes, choice: int, channel: str) -> str | Literal[True] | None:
        """Do ``flow`` with a few characters of ASCII, sooner; ``None``: unread, ``True``: all."""
        stream = self._streams.get((choice, channel))
        if stream is None or not stream.plain or choice in self._blocked:
            return None
        try:
            matches = stream.token(data)
            if matches is None or matches is True:
                return matches
            return stream.take(self._found(stream, matches, choice)) if matches else stream.flow()
        except Exception:
            return self._fail(stream, data.decode("ascii"), choice)

    def end(self, choice: int = 0, channel: str = "content") -> str:
        """Do ``finish`` likewise."""
        return self._step("", choice, channel, final=True, wait=True)

    async def afeed(self, text: str, choice: int = 0, channel: str = "content") -> Released:
        """Do ``feed`` without blocking the event loop."""
        if self.waits(len(text), ends=False):
            return await asyncio.to_thread(self.feed, text, choice, channel)
        return self.feed(text, choice, channel, wait=False)

    async def afinish(self, choice: int = 0, channel: str = "content") -> Released:
        """Do ``finish`` without blocking the event loop."""
        if self.waits(0):
            return await asyncio.to_thread(self.finish, choice, channel)
        return self.finish(choice, channel)

    def block(self, choice: int = 0) -> None:
        """Record that ``choice`` was refused elsewhere (by the token layer)."""
        self._blocked.add(choice)
        self._version += 1

    def _step(self, text: str, choice: int, channel: str, *, final: bool, wait: bool) -> str:
        if choice in self._blocked:
            return ""
        stream = self._streams.get((choice, channel))
        try:
            if stream is None:
                stream = self._open()
                self._streams[choice, channel] = stream
            return self._advance(stream, text, choice, final=final, wait=wait)
        except Exception:
            return self._fail(stream, text, choice)

    def _fail(self, stream: Channel | None, text: str, choice: int) -> str:
        """Answer a failure inside as the policy says; return what may go out."""
        if self.failed(Stage.OUTPUT).blocked:
            self._blocked.add(choice)
            return ""
        if stream is None:
            return text
        stream.failed, stream.plain = True, False
        released, stream.held = stream.held, ""
        return released

    def _open(self) -> Channel:
        scanner = self._moderator.scanner(Stage.OUTPUT)
        cascade = self._moderator.cascades[Stage.OUTPUT]
        return Channel(scanner, Checkpoints(cascade, self._asked) if cascade.active else None)

    def _advance(self, stream: Channel, text: str, choice: int, *, final: bool, wait: bool) -> str:
        if stream.failed:  # the policy opens on failure: the rest passes unread
            return text
        stream.held += text  # first: what follows may raise
        marks = stream.marks
        if marks is None:
            limit = self._match(stream, text, choice, final=final)
        elif not final and not stream.unread and len(text) < marks.room:
            limit = self._match(stream, text, choice)
            mark(marks, text, limit, blocked=choice in self._blocked)
            limit = min(limit, marks.limit)
        else:
            limit = self._walk(stream, marks, text, choice, final=final, wait=wait)
        return stream.take(limit)

    def _match(self, stream: Channel, text: str, choice: int, *, final: bool = False) -> int:
        """Look for patterns in more text; return how far it may go out as far as those go."""
        matches = stream.scanner.feed(text) if text else []
        if final:
            matches += stream.scanner.finish()
        limit = self._found(stream, matches, choice, final=final)
        stream.plain = stream.marks is None
        return limit

    def _found(
        self, stream: Channel, matches: list[Match], choice: int, *, final: bool = False
    ) -> int:
        """Act on what the scanner made certain; return how far the text may go out now."""
        self._note(Stage.OUTPUT, matches, TierState.RAN)
        limit = stream.scanner.read if final else stream.scanner.hold_from
        if not matches:
            return limit
        stops = [m.start for m in matches if self._moderator.stopping(m.rule)]
        if stops:
            limit = min(limit, *stops)
            self.block(choice)
        for match in matches:
            if self._moderator.redacting(match.rule):
                stream.redactions = [*(stream.redactions or []), (match.start, match.end)]
        return limit

    def _walk(
        self,
        stream: Channel,
        marks: Checkpoints,
        text: str,
        choice: int,
        *,
        final: bool,
        wait: bool,
    ) -> int:
        """Read from checkpoint to checkpoint; each is settled before what follows it is read."""
        unread = stream.unread + text
        limit, at = stream.base, 0
        while True:
            if not marks.room:
                if not wait and marks.doubtful():
                    break
                if not self._settle(marks, choice):
                    return min(limit, marks.passed)
            piece = unread[at : at + marks.room]
            if not piece:
                break
            at += len(piece)
            limit = self._match(stream, piece, choice)
            mark(marks, piece, limit, blocked=choice in self._blocked)
            if choice in self._blocked:
                return min(limit, marks.limit)
        stream.unread = unread[at:]
        if final:
            limit = self._match(stream, "", choice, final=True)
            if choice not in self._blocked and marks.passed < marks.position:
                self._settle(marks, choice)
            self._score(Stage.OUTPUT, marks.reading)
        return min(limit, marks.limit)

    def _settle(self, marks: Checkpoints, choice: int) -> bool:
        passes = marks.settle()
        if not marks.quiet:  # how high harmless scores were can wait for the end
            self._score(Stage.OUTPUT, marks.reading)
        if not passes:
            self.block(choice)
        return passes

    def _score(self, stage: Stage, reading: Reading) -> None:
        known = self._read.get(stage)
        worst = reading if known is None else known.worst(reading)
        if worst != known:
            self._read[stage] = worst
            self._version += 1

    def _note(self, stage: Stage, matches: Sequence[Match], state: TierState) -> None:
        tiers = self._tiers[stage]
        known = tiers.get(PATTERNS)
        if not matches and known is state:
            return
        if known is not TierState.FAILED:
            tiers[PATTERNS] = state
        kept = self._matches[stage]
        for match in matches:
            # A flood of flagged words must not push out the one match that decides.
            if len(kept) < _MOST_MATCHES or all(match.rule != other.rule for other in kept):
                kept.append(match)
        self._version += 1
