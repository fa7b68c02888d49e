"""Judged text must stay text: nothing in it may end a turn, open one, or answer for the model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

# Of every model, whichever is asked: a server may know more control tokens than the template uses.
_EVERYWHERE = (
    "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>", "<s>", "</s>",
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<think>", "</think>", "<score>", "</score>",
)  # fmt: skip


_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_HALVES = re.compile("[\ud800-\udfff]")


@lru_cache(maxsize=32)
def _patterns(
    marks: tuple[str, ...], labels: tuple[str, ...]
) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    every = sorted({*_EVERYWHERE, *marks}, key=len, reverse=True)
    broken = "|".join(re.escape(mark[1:]) for mark in every)
    # The mark's first character gets a blank behind it: no longer a control token to any
    # tokenizer, still readable to the model. `<|` and `|>` cover every `<|name|>` there is.
    mark = re.compile(rf"[<\[](?=\||(?:{broken}))|\|(?=>)", re.IGNORECASE)
    if not labels:
        return mark, None
    names = "|".join(re.escape(label.removesuffix(":")) for label in labels)
    label = re.compile(rf"^([^\S\n]*(?:\*\*|\#+[^\S\n]*)?(?:{names}))(?=:)", re.IGNORECASE | re.M)
    return mark, label


def neutralise(text: str, marks: Iterable[str] = (), labels: Iterable[str] = ()) -> str:
    """Return ``text`` with control tokens, ``marks`` and line-starting ``labels`` broken up.

    ``marks`` are delimiters of the template such as ``"<END CONVERSATION>"``; ``labels`` its names
    of speakers and answers such as ``"Agent:"``. A blank is put inside each, nothing is removed.
    """
    mark, label = _patterns(tuple(marks), tuple(labels))
    # Line separators that aren't \n would hide a label from the pattern and show it to the model.
    text = _LINE_ENDS.sub("\n", text)
    # Half a character, which JSON may spell and no request to a model can carry.
    text = _HALVES.sub("\ufffd", text)
    text = mark.sub(lambda found: found[0] + " ", text)
    return text if label is None else label.sub(r"\1 ", text)
