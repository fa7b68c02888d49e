"""Llama Guard 3 (1B, 8B) and Llama Guard 4 (12B, its text side).

Templates: https://www.llama.com/docs/model-cards-and-prompt-formats/llama-guard-3/ and
https://www.llama.com/docs/model-cards-and-prompt-formats/llama-guard-4/; the words between the
control tokens as in Meta's own client,
https://github.com/meta-llama/llama-stack/blob/main/llama_stack/providers/inline/safety/llama_guard/llama_guard.py.
The two differ in control tokens only. The model cards say what a score is: the probability of
``unsafe`` as the first token.
"""

from __future__ import annotations

from dataclasses import dataclass

from prism.classify.guard.answers import choose
from prism.classify.guard.neutral import neutralise
from prism.classify.guard.types import HARM, Ask, GuardUnreadable, Steps, Talk, Verdict
from prism.taxonomy import taxonomy

HEADINGS = (
    "Violent Crimes", "Non-Violent Crimes", "Sex Crimes", "Child Exploitation", "Defamation",
    "Specialized Advice", "Privacy", "Intellectual Property", "Indiscriminate Weapons", "Hate",
    "Self-Harm", "Sexual Content", "Elections", "Code Interpreter Abuse",
)  # fmt: skip
"""S1 to S14, as the prompt names them."""

_VERDICTS = ("safe", "unsafe")
_WORTH_ASKING = 0.05
"""From this probability of harm on it is asked which harm."""
_SPEAKER = {"user": "User", "agent": "Agent"}
_LABELS = ("User:", "Agent:", "Assistant:")
_MARKS = (
    "<BEGIN UNSAFE CONTENT CATEGORIES>", "<END UNSAFE CONTENT CATEGORIES>",
    "<BEGIN CONVERSATION>", "<END CONVERSATION>",
)  # fmt: skip


@dataclass(frozen=True)
class LlamaGuard:
    """Safe or unsafe, then the codes of what was violated. Custom categories are its own feature.

    A rule is judged as the only category of a list of its own: P(unsafe) is then the rule's.
    """

    name: str
    open_header: str
    close_header: str
    end_of_turn: str
    takes_rules: bool = True

    @property
    def categories(self) -> tuple[str, ...]:
        """``"harm"`` and what S1 to S14 are called here."""
        return HARM, *_keys()

    def render(self, talk: Talk, categories: str) -> str:
        """Return the prompt, without its begin-of-text token."""
        speaker = _SPEAKER[talk.judged]
        said = "\n\n".join(
            f"{_SPEAKER[who]}: {neutralise(text, _MARKS, _LABELS)}" for who, text in talk.turns
        )
        task = (
            f"Task: Check if there is unsafe content in '{speaker}' messages in conversations "
            "according our safety policy with the below categories.\n\n"
            f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
            f"<BEGIN CONVERSATION>\n\n{said}\n\n<END CONVERSATION>\n\n"
            f"Provide your safety assessment for ONLY THE LAST {speaker} message in the above "
            "conversation:\n"
            " - First line must read 'safe' or 'unsafe'.\n"
            " - If unsafe, a second line must include a comma-separated list of violated "
            "categories."
        )
        return f"{self._header('user')}{task}{self.end_of_turn}{self._header('assistant')}"

    def scores(self, talk: Talk) -> Steps[Verdict]:
        """Return P(unsafe), and for each category P(unsafe) times P(it is named first)."""
        own = "\n".join(f"S{number}: {name}." for number, name in enumerate(HEADINGS, 1))
        prompt = self.render(talk, own)
        (first,) = yield [Ask(prompt, _VERDICTS)]
        harm = choose(first, _VERDICTS)["unsafe"]
        scores = dict.fromkeys(self.categories, 0.0) | {HARM: harm}
        if harm >= _WORTH_ASKING:
            codes = tuple(str(number) for number in range(1, len(HEADINGS) + 1))
            (second,) = yield [Ask(f"{prompt}unsafe\nS", codes)]
            try:
                named = choose(second, codes)
            except GuardUnreadable:  # that it is harm is known all the same
                return Verdict(scores)
            for key, code in zip(_keys(), codes, strict=True):
                scores[key] = harm * named[code]
        return Verdict(scores)

    def rule(self, talk: Talk, rule: str) -> Steps[float]:
        """Return P(unsafe) where ``rule`` is the only category."""
        own = f"S1: House Rule.\n{neutralise(rule, _MARKS, _LABELS)}"
        (first,) = yield [Ask(self.render(talk, own), _VERDICTS)]
        return choose(first, _VERDICTS)["unsafe"]

    def _header(self, role: str) -> str:
        return f"{self.open_header}{role}{self.close_header}\n\n"


def _keys() -> list[str]:
    known = taxonomy()
    return [known.from_llama_guard(f"S{number}") for number in range(1, len(HEADINGS) + 1)]


LLAMA_GUARD_3 = LlamaGuard(
    "llama-guard-3", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
)
LLAMA_GUARD_4 = LlamaGuard("llama-guard-4", "<|header_start|>", "<|header_end|>", "<|eot|>")
