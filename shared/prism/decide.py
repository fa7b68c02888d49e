"""The blocking function of the paper: evidence of p(x) and q(Y) against a policy. Pure."""

from __future__ import annotations

from prism.classify.languages import supported
from prism.policy.compiled import CompiledPolicy
from prism.types import Action, Decision, Evidence, Finding, Mode, Stage, TierState

TIER_FAILURE_RULE = "prism.tier_failure"
"""Id under which a failed tier appears among the findings."""
UNKNOWN_LANGUAGE_RULE = "prism.unknown_language"
"""Id under which a text in a language that the models weren't measured on appears."""
BUILT_IN = frozenset({TIER_FAILURE_RULE, UNKNOWN_LANGUAGE_RULE})
"""Findings that say something about the check, not of which category the text is."""
_NAMES = {stage: stage.value for stage in Stage}


def decide(p: Evidence | None, q: Evidence | None, policy: CompiledPolicy) -> Decision:
    """Return the verdict on a prompt's evidence ``p`` and an output's evidence ``q``.

    ``None`` means that this side wasn't looked at; its tiers are then absent, never "passed". The
    action is the strictest of the enforced findings; ``would`` counts monitored ones too.
    """
    findings: list[Finding] = []
    scores: dict[str, float] = {}
    tiers: dict[str, TierState] = {}
    languages: dict[str, str] = {}
    for stage, evidence in ((Stage.PROMPT, p), (Stage.OUTPUT, q)):
        if evidence is None:
            continue
        if evidence.matches:
            findings.extend(_matched(stage, evidence, policy))
        if evidence.scores or evidence.answers:
            findings.extend(_scored(stage, evidence, policy))
        if TierState.FAILED in evidence.tiers.values():
            findings.append(_failed(stage, policy))
        if policy.unknown_language != "allow" and not supported(evidence.language):
            findings.append(_foreign(stage, policy))
        for category, score in evidence.scores.items():
            scores[category] = max(score, scores.get(category, 0.0))
        for tier, state in evidence.tiers.items():
            tiers[f"{_NAMES[stage]}.{tier}"] = state
        if evidence.language is not None:
            languages[_NAMES[stage]] = evidence.language
    action = would = Action.ALLOW
    if findings:
        action = max((f.action for f in findings if f.enforced), default=action)
        would = max(f.action for f in findings)
    message = policy.message() if action is Action.BLOCK else None
    return Decision(
        action, would, policy.digest, tuple(findings), scores, tiers, message, languages
    )


def _matched(stage: Stage, evidence: Evidence, policy: CompiledPolicy) -> list[Finding]:
    rules = {rule.id: rule for rule in policy.rules}
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
        if rule.plain_language is None:
            score = evidence.scores.get(rule.category)
        else:
            score = evidence.answers.get(rule.id)
        if threshold is not None and score is not None and score >= threshold:
            enforced = rule.mode is Mode.ENFORCE
            findings.append(
                Finding(rule.id, rule.category, stage, rule.action, enforced, score=score)
            )
    return findings


def _failed(stage: Stage, policy: CompiledPolicy) -> Finding:
    action = Action.BLOCK if policy.on_tier_failure == "close" else Action.FLAG
    enforced = policy.mode is Mode.ENFORCE
    return Finding(TIER_FAILURE_RULE, "tst", stage, action, enforced)


def _foreign(stage: Stage, policy: CompiledPolicy) -> Finding:
    action = Action.parse(policy.unknown_language)
    enforced = policy.mode is Mode.ENFORCE
    return Finding(UNKNOWN_LANGUAGE_RULE, "tst", stage, action, enforced)
