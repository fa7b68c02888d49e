"""Counters of the text layer, in a registry of their own.

Engines have their own ideas about the default registry: vLLM puts it into multi-process mode when
it runs several API servers, and with one it does not show what worker processes count. So nothing
here touches it; the figures are those of the process that answers ``/prism/metrics``.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prism.types import Decision, Finding, Stage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HOW = {True: "beside", False: "before"}


class Metrics:
    """Counts requests, decisions and failures. Labels come from fixed sets, never from a client."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "prism_requests", "Requests by route family and outcome.", ("family", "outcome"),
            registry=self.registry,
        )  # fmt: skip
        self._decisions = Counter(
            "prism_decisions", "Rules that fired.", ("action", "category", "stage", "enforced"),
            registry=self.registry,
        )  # fmt: skip
        self._held = Counter(
            "prism_held_chars", "Characters of answers that had to wait for a verdict.",
            registry=self.registry,
        )  # fmt: skip
        self._scanned = Counter(
            "prism_scanned_chars", "Characters judged.", ("stage",), registry=self.registry
        )
        self._admission = Histogram(
            "prism_prompt_check_seconds", "Time to a verdict on the prompt; how: before the engine"
            " heard of the request, or beside its work.", ("how",), registry=self.registry,
            buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        )  # fmt: skip
        self._saved = Counter(
            "prism_prompt_check_saved_seconds", "Time of prompt checks in which the engine was at"
            " work already, on requests that went on.", registry=self.registry,
        )  # fmt: skip
        self._failures = Counter(
            "prism_failures", "Failures that closed an answer or a layer.", ("kind",),
            registry=self.registry,
        )  # fmt: skip
        self._layer = Gauge(
            "prism_layer_live", "1 once the self-test saw the layer work.", ("layer",),
            registry=self.registry,
        )  # fmt: skip
        self._active = Gauge(
            "prism_active_requests", "Moderated requests in flight.", registry=self.registry
        )
        # What every request counts, looked up once: to find it by its labels takes longer than to
        # count.
        self._scanned_in = {stage: self._scanned.labels(stage.value) for stage in Stage}
        self._admitted = {beside: self._admission.labels(how) for beside, how in _HOW.items()}
        self._outcomes: dict[tuple[str, str], Counter] = {}

    def request(self, family: str, outcome: str) -> None:
        """Count one request."""
        known = self._outcomes.get((family, outcome))
        if known is None:
            known = self._outcomes[family, outcome] = self._requests.labels(family, outcome)
        known.inc()

    def decision(self, decision: Decision) -> None:
        """Count each rule that fired, once."""
        seen: set[tuple[str, str]] = set()
        for finding in decision.findings:
            key = (finding.rule, finding.stage)
            if key not in seen:
                seen.add(key)
                self._finding(finding)

    def _finding(self, finding: Finding) -> None:
        enforced = "true" if finding.enforced else "false"
        self._decisions.labels(
            str(finding.action), finding.category, finding.stage.value, enforced
        ).inc()

    def text(self, stage: Stage, chars: int, held: int = 0) -> None:
        """Count characters judged, and those among them that had to wait."""
        self._scanned_in[stage].inc(chars)
        if held:
            self._held.inc(held)

    def admission(self, seconds: float, *, beside: bool, saved: float) -> None:
        """Note a verdict on a prompt, and how much of its time the engine had used already."""
        self._admitted[beside].observe(seconds)
        if saved:
            self._saved.inc(saved)

    def failure(self, kind: str) -> None:
        """Count something that went wrong and was answered by closing."""
        self._failures.labels(kind).inc()

    def layer(self, name: str, live: bool) -> None:
        """Note what the self-test saw."""
        self._layer.labels(name).set(1 if live else 0)

    def active(self, change: int) -> None:
        """Note that requests began or ended."""
        self._active.inc(change)

    def render(self) -> bytes:
        """Return the exposition in Prometheus's text format."""
        return generate_latest(self.registry)
