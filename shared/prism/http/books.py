"""The books of a server: what goes on record of each decision, and what follows when it can't."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hmac import HMAC
from typing import Any

import anyio.to_thread

from prism.conversation import prompt_text
from prism.http.errors import Unavailable
from prism.record.audit import AuditError, AuditLog, AuditSettings, Record
from prism.record.metrics import Metrics
from prism.record.receipt import Receipt
from prism.session import Session
from prism.types import Decision, Finding, Stage

Messages = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Books:
    """Writes decisions to the audit log, where there is one."""

    log: AuditLog | None
    metrics: Metrics

    @classmethod
    def open(cls, settings: AuditSettings | None, metrics: Metrics) -> Books:
        """Open the log that the operator asked for. Raises :class:`AuditError`."""
        return cls(None if settings is None else AuditLog(settings), metrics)

    @property
    def ok(self) -> bool:
        """Whether what is decided can be put on record, or need not be."""
        log = self.log
        return log is None or not log.settings.closes or log.failure is None

    def report(self) -> dict[str, Any]:
        """Return what the health route says of the log."""
        if self.log is None:
            return {}
        failure = self.log.failure
        detail = f"line {self.log.head.seq} is written" if failure is None else failure
        return {"audit": {"live": failure is None, "detail": detail}}

    def require_room(self) -> None:
        """Raise :class:`Unavailable` where another decision could not be put on record."""
        log = self.log
        if log is None or not log.settings.closes:
            return
        if log.failure is not None:
            raise _closed(log.failure)
        if log.full:
            raise Unavailable(
                "too many decisions wait to be put on record; try again soon",
                code="audit_busy",
                retry_after=1,
            )

    @property
    def fingerprint(self) -> Callable[[], HMAC] | None:
        """What makes a keyed fingerprint of an answer's text, or ``None`` where none is kept."""
        return None if self.log is None else self.log.keys.fingerprint

    async def write(
        self,
        event: str,
        family: str,
        outcome: str,
        session: Session,
        receipt: Receipt,
        *,
        prompt: Messages,
        answers: Mapping[str, str],
    ) -> None:
        """Record what was decided of a request. Raises :class:`Unavailable` if that fails."""
        if self.log is None:
            return
        decision, facts = session.decision, receipt.as_dict()
        await self._append(
            lambda: self._line(event, family, outcome, decision, facts, prompt, answers)
        )

    async def write_moderations(self, judged: Sequence[tuple[Session, Messages]]) -> None:
        """Record what was decided of inputs that were sent to be judged and no more."""
        if self.log is None:
            return
        records: list[Record] = []
        for session, prompt in judged:
            chars = sum(len(message["content"]) for message in prompt)
            receipt = Receipt.of(
                session.decision,
                id=session.id,
                tenant=session.tenant,
                layers=(),
                channels={Stage.PROMPT.value: chars},
            )
            records.append(self._judged(session.decision, receipt.as_dict(), prompt))
        await self._append(*records)

    async def close(self) -> None:
        """End the log in an orderly way."""
        if self.log is not None:
            await anyio.to_thread.run_sync(self.log.close)

    async def _append(self, *records: Record) -> None:
        log = self.log
        assert log is not None
        try:
            await log.write(*records)
        except AuditError as error:
            self.metrics.failure("audit")
            if log.settings.closes:
                raise _closed(str(error)) from None

    def _judged(self, decision: Decision, facts: dict[str, Any], prompt: Messages) -> Record:
        return lambda: self._line("judged", "moderations", "passed", decision, facts, prompt, {})

    def _line(
        self,
        event: str,
        family: str,
        outcome: str,
        decision: Decision,
        facts: dict[str, Any],
        prompt: Messages,
        answers: Mapping[str, str],
    ) -> dict[str, Any]:
        assert self.log is not None
        keys = self.log.keys
        texts = {"prompt": keys.fingerprint_of(prompt_text(prompt))}
        users = [message["content"] for message in prompt if message.get("role") == "user"]
        if users:
            texts["last_user"] = keys.fingerprint_of(users[-1])
        return {
            "event": event,
            "family": family,
            "outcome": outcome,
            **facts,
            "rules": [_finding(finding) for finding in decision.findings],
            "texts": {**texts, **answers},
        }


def _finding(finding: Finding) -> dict[str, Any]:
    """Return which rule fired where, in numbers: never the text it fired on."""
    line: dict[str, Any] = {
        "rule": finding.rule,
        "category": finding.category,
        "stage": finding.stage.value,
        "action": str(finding.action),
        "enforced": finding.enforced,
    }
    if finding.start is not None and finding.end is not None:
        line["span"] = [finding.start, finding.end]
    if finding.score is not None:
        line["score"] = round(float(finding.score), 6)
    if finding.via:
        line["via"] = list(finding.via)
    return line


def _closed(reason: str) -> Unavailable:
    return Unavailable(
        f"not serving: decisions can't be put on record: {reason}",
        code="audit_failed",
        retry_after=5,
    )
