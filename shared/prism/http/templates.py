"""Whole conversations in one string: text that a client has put into a chat template itself.

Routes that take a bare prompt are sent such strings, and engines read a template's marks in a
chat's messages, too: to the model they are turns. So the user's turns are found again and judged
together as well, as those of a chat are; the string as a whole is judged as it stands.
"""

from __future__ import annotations

import re

_USER = frozenset({"user", "human", "instruction", "input", "inst"})
_BEGIN = re.compile(
    r"""
      <\|im_start\|>\s{0,8}(?P<chatml>\w{1,32})                                    # ChatML
    | <\|start_header_id\|>\s{0,8}(?P<llama3>\w{1,32})\s{0,8}<\|end_header_id\|>   # Llama 3
    | <\|header_start\|>\s{0,8}(?P<llama4>\w{1,32})\s{0,8}<\|header_end\|>         # Llama 4
    | <start_of_turn>\s{0,8}(?P<gemma>\w{1,32})                                    # Gemma
    | <\|turn>\s{0,8}(?P<gemma4>\w{1,32})
    | <\|start\|>\s{0,8}(?P<harmony>\w{1,32})                                      # gpt-oss
    | <[|｜](?P<phi>user|assistant|system|observation|tool)[|｜]>                # Phi, DeepSeek
    | <\|(?P<cohere>user|chatbot|system)_token\|>                                  # Command
    | \[(?P<mistral>/?INST)\]                                                      # Mistral
    | (?:^|\n)[ \t]{0,8}(?:\#{1,4}[ \t]{0,8})?                                     # Vicuna, Alpaca
      (?P<plain>user|human|assistant|ai|bot|model|system|instruction|input|response)
      [ \t]{0,8}:
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MARKS = re.compile(
    r"<[|｜][^<>|｜]{0,40}[|｜]?>|</?s>|<(?:bos|eos|end_of_turn|turn\|)>|<</?SYS>>", re.IGNORECASE
)


_HINTS = "<[:"
"""One of these is in every mark of a turn: most texts are told by that to have none."""

_SEAM = "The turns of the user in it:"
"""Between a text and its turns, lest the end of one and the beginning of another make a phrase."""


def raw_messages(text: str, role: str = "user") -> list[dict[str, str]]:
    """Return a text as a message, and behind it the user's turns if it holds several."""
    if not any(hint in text for hint in _HINTS):
        return [{"role": role, "content": text}]
    turns = [turn for turn in _turns(text) if turn]
    if len(turns) < 2:
        return [{"role": role, "content": text}]
    # Not as the user's: what stands between the turns in it would keep them apart.
    whole = [{"role": "context", "content": text}, {"role": "context", "content": _SEAM}]
    return whole + [{"role": "user", "content": turn} for turn in turns]


def _turns(text: str) -> list[str]:
    found = list(_BEGIN.finditer(text))
    ends = [*(mark.start() for mark in found[1:]), len(text)] if found else []
    return [
        _MARKS.sub("", text[mark.end() : end]).strip()
        for mark, end in zip(found, ends, strict=True)
        if mark[mark.lastgroup or 0].lower() in _USER
    ]
