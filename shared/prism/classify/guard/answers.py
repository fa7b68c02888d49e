"""From a next-token distribution to the probability of each answer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from prism.classify.guard.types import Completion, GuardUnreadable

LEAST_MASS = 0.01
"""Less than this on all answers together: the model is not answering the question it was asked."""


def choose(completion: Completion, answers: Sequence[str]) -> dict[str, float]:
    """Return the probability of each answer: softmax over the tokens that begin them.

    A token that may begin several counts in equal parts.

    Without log-probabilities the generated word decides, with probability 1. Raises
    ``GuardUnreadable`` where the model says something else.
    """
    if completion.top is None:
        said = _meant(completion.text, answers)
        if len(said) != 1:
            raise GuardUnreadable(f"the guard's answer is none of {_shown(answers)}")
        return {answer: float(answer == said[0]) for answer in answers}
    mass = dict.fromkeys(answers, 0.0)
    for token, log_probability in completion.top.items():
        meant = _meant(token, answers)
        if meant and not math.isnan(log_probability):
            for answer in meant:
                mass[answer] += math.exp(min(log_probability, 0.0)) / len(meant)
    total = sum(mass.values())
    if total < LEAST_MASS:
        raise GuardUnreadable(
            f"the guard puts {total:.1%} on its answers ({_shown(answers)}): is it a model of "
            "this format?"
        )
    return {answer: value / total for answer, value in mass.items()}


def _shown(answers: Sequence[str]) -> str:
    return ", ".join(answers if len(answers) <= 3 else (answers[0], "…", answers[-1]))


def _meant(text: str, answers: Sequence[str]) -> list[str]:
    """Return the answer that ``text`` is or goes on from, or the answers that it may begin."""
    said = text.strip().casefold()
    if not said:
        return []
    exact = [a for a in answers if a.casefold() == said]
    over = [a for a in answers if re.match(rf"{re.escape(a.casefold())}(?!\w)", said)]
    begun = [a for a in answers if a.casefold().startswith(said)]
    return exact or over or begun
