"""The blocking function of the paper: evidence of p(x) and q(Y) against a policy. Pure."""

from __future__ import annotations

from prism.policy.compiled import CompiledPolicy, CompiledRule
from prism.types import Action, Decision, Evidence, Finding, Mode, Stage, TierState

TIER_FAILURE_RULE = "prism.tier_failure"
"""Id under which a failed tier appears among the findings."""
_EMPTY = Evidence()


def decide(p: Evidence | None, q: Evidence | None, policy: CompiledPolicy) -> Decision:
    """Return the verdict on a prompt's evidence ``p`` and an output's evidence ``q``.

    ``None`` means that this side wasn't looked at; its tiers are then absent, never "passed". The
    action is the strictest of the enforced findings; ``would`` counts monitored ones too.
    """
    findings: list[Finding] = []
    scores: dict[str, float] = {}
    tiers: dict[str, TierState] = {}
    by_id = {rule.id: rule for rule in policy.rules}
    for stage, evidence in ((Stage.PROMPT, p), (Stage.OUTPUT, q)):
        if evidence is None:
            continue
        findings.extend(_matched(stage, evidence, by_id))
        findings.extend(_scored(stage, evidence, policy))
        findings.extend(_failed(stage, evidence, policy))
        for category, score in evidence.scores.items():
            scores[category] = max(score, scores.get(category, 0.0))
        for tier, state in evidence.tiers.items():
            tiers[f"{stage.value}.{tier}"] = state
    enforced = [f.action for f in findings if f.enforced]
    action = max(enforced, default=Action.ALLOW)
    would = max((f.action for f in findings), default=Action.ALLOW)
    message = policy.message() if action is Action.BLOCK else None
    return Decision(action, would, policy.digest, tuple(findings), scores, tiers, message)


def _matched(stage: Stage, evidence: Evidence, rules: dict[str, CompiledRule]) -> list[Finding]:
    findings = []
    for match in evidence.matches:
        rule = rules[match.rule]
        findings.append(
            Finding(
                rule.id,
                rule.category,
                stage,
                rule.action,
                rule.mode is Mode.ENFORCE,
                match.start,
                match.end,
                match.via,
            )
        )
    return findings


def _scored(stage: Stage, evidence: Evidence, policy: CompiledPolicy) -> list[Finding]:
    findings = []
    for rule in policy.rules_for(stage):
        threshold = (rule.thresholds or {}).get(stage)
        score = evidence.scores.get(rule.category)
        if threshold is not None and score is not None and score >= threshold:
            enforced = rule.mode is Mode.ENFORCE
            findings.append(
                Finding(rule.id, rule.category, stage, rule.action, enforced, score=score)
            )
    return findings


def _failed(stage: Stage, evidence: Evidence, policy: CompiledPolicy) -> list[Finding]:
    if TierState.FAILED not in evidence.tiers.values():
        return []
    action = Action.BLOCK if policy.on_tier_failure == "close" else Action.FLAG
    enforced = policy.mode is Mode.ENFORCE
    return [Finding(TIER_FAILURE_RULE, "tst", stage, action, enforced)]
