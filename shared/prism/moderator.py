"""The façade that adapters call: one ``Moderator`` per policy, one ``Session`` per request."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from prism.classify.cascade import Cascade
from prism.classify.models import Models
from prism.conversation import Prompt, prompt_text
from prism.match import Matcher, Scanner
from prism.session import Session
from prism.types import Action, Decision, Match, Mode, Stage

if TYPE_CHECKING:
    from prism.policy.compiled import CompiledPolicy


class Moderator:
    """Judges prompts and outputs under one policy. Thread-safe; make one per policy.

    ``models`` are the process's shared ones unless given. Raises ``ModelsError`` where a tier that
    the policy has on can't be loaded.
    """

    def __init__(self, policy: CompiledPolicy, models: Models | None = None) -> None:
        self.policy = policy
        self.models = models if models is not None else Models.shared()
        self.models.require(policy)
        self.cascades = {stage: Cascade(policy, stage, self.models) for stage in Stage}
        self._matchers = {stage: Matcher.compile(policy, stage) for stage in Stage}
        self.reads_names = any(matcher.slow for matcher in self._matchers.values())
        self.never_waits = not self.reads_names and not any(
            cascade.may_wait for cascade in self.cascades.values()
        )
        """Whether nothing that is judged under this policy ever waits for a model."""
        self.scores = any(cascade.active for cascade in self.cascades.values())
        """Whether any score model is asked of anything under this policy."""
        self._on_nothing: dict[tuple[Stage, ...], Decision | None] = {}
        for stages in ((Stage.PROMPT,), (Stage.OUTPUT,), (Stage.PROMPT, Stage.OUTPUT)):
            self._on_nothing[stages] = self._verdict_on_nothing(*stages)

    @classmethod
    def from_policy(
        cls,
        ref: str | Path,
        *,
        floor: str | Path | None = None,
        models: Models | None = None,
    ) -> Moderator:
        """Load a policy file or a shipped policy by name.

        Raises ``PolicyError`` and ``ModelsError``.
        """
        from prism.policy import load_policy

        return cls(load_policy(ref, floor=floor), models)

    def check_prompt(self, prompt: Prompt) -> Decision:
        """Return p(x)'s verdict on a text or on chat messages. Raises ``Busy``."""
        known = self._judge_plainly(Stage.PROMPT, prompt)
        return known if known is not None else self.session().check_prompt(prompt)

    async def acheck_prompt(self, prompt: Prompt) -> Decision:
        """Do ``check_prompt`` without blocking the event loop."""
        return await asyncio.to_thread(self.check_prompt, prompt)

    def check_output(self, text: str, prompt: Prompt | None = None) -> Decision:
        """Return q(Y)'s verdict on a whole text; ``prompt`` is what it answers, not judged."""
        if prompt is None and (known := self._judge_plainly(Stage.OUTPUT, text)) is not None:
            return known
        session = self.session()
        if prompt is not None:
            session.answers(prompt)
        session.feed(text)
        session.finish()
        return session.decision

    async def acheck_output(self, text: str, prompt: Prompt | None = None) -> Decision:
        """Do ``check_output`` without blocking the event loop."""
        return await asyncio.to_thread(self.check_output, text, prompt)

    def _judge_plainly(self, stage: Stage, text: Prompt) -> Decision | None:
        """Return the verdict on a text that patterns alone judge, where they find nothing.

        It is the same for all such texts, and most are. ``None``: a session has to say.
        """
        known = self.on_nothing(stage)
        if known is None or not isinstance(text, str):
            return None
        try:
            return None if self.found(stage, text) else known
        except Exception:
            return self.session().failed(stage)

    def on_nothing(self, *stages: Stage) -> Decision | None:
        """Return the verdict where patterns alone read all of ``stages`` and found nothing.

        ``None``: it has to be reached each time.
        """
        return self._on_nothing.get(stages)

    def _verdict_on_nothing(self, *stages: Stage) -> Decision | None:
        if any(self.cascades[stage].active for stage in stages):
            return None
        session = self.session()
        verdict = [session.passed(stage) for stage in stages][-1]
        if verdict.findings:
            return None
        # It is everybody's: nobody may write into it.
        return replace(
            verdict,
            scores=MappingProxyType(dict(verdict.scores)),
            tiers=MappingProxyType(dict(verdict.tiers)),
            languages=MappingProxyType(dict(verdict.languages)),
        )

    def session(
        self, request_id: str | None = None, tenant: str = "default", locale: str | None = None
    ) -> Session:
        """Return the state of one request."""
        return Session(self, request_id or f"prism-{secrets.token_hex(12)}", tenant, locale)

    def scanner(self, stage: Stage) -> Scanner:
        """Return a scanner at the start of a text of ``stage``."""
        return self._matchers[stage].scanner()

    def found(self, stage: Stage, text: str) -> list[Match]:
        """Return the matches in a whole text of ``stage``; raises what a scanner does."""
        return self._matchers[stage].found(text)

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


__all__ = ["Moderator", "Prompt", "Session", "prompt_text"]
