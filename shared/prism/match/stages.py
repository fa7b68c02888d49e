"""Which phrases of a policy count where: at the prompt, at the output, in text and in tokens.

A long list of phrases nearly always belongs to both stages, and then differs from one place to the
next only by a few short rules. So where the list is long, one set of all the policy's phrases is
compiled, and each place counts the hits of its own rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakValueDictionary

from prism.match.phrases import Phrase, PhraseSet
from prism.policy.compiled import CompiledPolicy, CompiledRule
from prism.types import Action, Mode, Stage

WORTH_SHARING = 2_000
"""From so many phrases on, what one set more would cost counts for more than the time that a few
phrases too many take."""
_every: WeakValueDictionary[str, PhraseSet] = WeakValueDictionary()
"""By policy digest: to list so many phrases takes longer than to find them listed."""


def phrases_of(policy: CompiledPolicy, stage: Stage, least: Action = Action.FLAG) -> PhraseSet:
    """Return the phrases of ``policy`` at ``stage``, compiled.

    ``least`` above ``FLAG``: only what is enforced by at least that; in monitor mode that is
    nothing.
    """
    rules = [
        rule
        for rule in policy.rules_for(stage)
        if rule.phrases
        and (least <= Action.FLAG or (rule.mode is Mode.ENFORCE and rule.action >= least))
    ]
    if sum(len(rule.phrases) for rule in rules) < WORTH_SHARING:
        return PhraseSet.compile(_listed(rules, stage))
    every = _every.get(policy.digest)
    if every is None:
        # What is held back is held from outputs: a prompt is judged whole.
        every = PhraseSet.compile(_listed(policy.rules, Stage.OUTPUT))
        _every[policy.digest] = every
    return every.only(rule.id for rule in rules)


def _listed(rules: Iterable[CompiledRule], held_at: Stage) -> list[Phrase]:
    """Return the phrases of ``rules``; held are those that change the text at ``held_at``."""
    listed: list[Phrase] = []
    for rule in rules:
        changes = rule.mode is Mode.ENFORCE and rule.action >= Action.REDACT
        held = changes and held_at in rule.stages
        listed += [
            Phrase(rule.id, text, rule.boundary, rule.disguises, held) for text in rule.phrases
        ]
    return listed
