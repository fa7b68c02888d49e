"""Whole conversations in one string: text that a client has put into a chat template itself.

Routes that take a bare prompt are sent such strings, and engines read a template's marks in a
chat's messages, too: to the model they are turns. So the turns are found again and judged as those
of a chat are, each speaker's together; the string as a whole is judged as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_SPEAKERS = {
    **dict.fromkeys(("user", "human", "instruction", "input", "inst"), "user"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "ipython", "function", "environment"), "tool"),
    **dict.fromkeys(
        ("assistant", "ai", "bot", "model", "response", "chatbot", "/inst"), "assistant"
    ),
}
"""Who speaks under a template's name for it. Whoever isn't here is the user: no name hides text."""
_BEGIN = re.compile(
    r"""
      <\|im_start\|>\s{0,8}(?P<chatml>\w{1,32})                                    # ChatML
    | <\|start_header_id\|>\s{0,8}(?P<llama3>\w{1,32})\s{0,8}<\|end_header_id\|>   # Llama 3
    | <\|header_start\|>\s{0,8}(?P<llama4>\w{1,32})\s{0,8}<\|header_end\|>         # Llama 4
    | <start_of_turn>\s{0,8}(?P<gemma>\w{1,32})                                    # Gemma
    | <\|turn>\s{0,8}(?P<gemma4>\w{1,32})
    | <\|start\|>\s{0,8}(?P<harmony>\w{1,32})                                      # gpt-oss
    | <\|start_of_role\|>\s{0,8}(?P<granite>\w{1,32})
    | <\|im_(?P<kimi>user|assistant|system|tool)\|>[^<]{0,64}<\|im_middle\|>
    | <\|begin\|>\s{0,8}(?P<solar>\w{1,32})
    | <seed:bos>\s{0,8}(?P<seed>\w{1,32})
    | <extra_id_1>\s{0,8}(?P<nemotron>\w{1,32})
    | \[\|(?P<exaone>user|assistant|system|tool)\|\]
    | <[|｜](?:hy_)?                                      # Phi, GLM, DeepSeek, Hunyuan, Apertus
      (?P<phi>user|assistant|system|developer|observation|tool)(?:_start)?[|｜]>
    | <\|(?P<cohere>user|chatbot|system)_token\|>                                  # Command
    | \[(?P<mistral>/?INST)\]                                                      # Mistral
    | (?:^|\n)[ \t]{0,8}(?:\#{1,4}[ \t]{0,8})?                                     # Vicuna, Alpaca
      (?P<plain>user|human|assistant|ai|bot|model|system|instruction|input|response)
      [ \t]{0,8}:
    """,
    re.IGNORECASE | re.VERBOSE,
)
_MARKS = re.compile(
    r"<\|channel\|>\s{0,8}\w{1,32}"  # gpt-oss: what an answer is for
    r"|<seed:\w{1,8}>|<extra_id_\d>|\[\|\w{1,16}\|\]"
    r"|<[|｜][^<>|｜]{0,40}[|｜]?>|</?s>|<(?:bos|eos|end_of_turn|turn\|)>|<</?SYS>>",
    re.IGNORECASE,
)


_HINTS = "<[:"
"""One of these is in every mark of a turn: most texts are told by that to have none."""

_SEAM = "The turns in it:"
"""Between a text and its turns, lest the end of one and the beginning of another make a phrase."""


def raw_messages(text: str, role: str = "user") -> list[dict[str, str]]:
    """Return a text as a message, and behind it the turns in it if there are several."""
    if not any(hint in text for hint in _HINTS):
        return [{"role": role, "content": text}]
    turns = list(_turns(text))
    if len(turns) < 2:
        return [{"role": role, "content": text}]
    # Not as the user's: what stands between the turns in it would keep them apart.
    whole = [{"role": "context", "content": text}, {"role": "context", "content": _SEAM}]
    return whole + turns


def _turns(text: str) -> Iterator[dict[str, str]]:
    found = list(_BEGIN.finditer(text))
    if len(found) > 1 and (said := _MARKS.sub("", text[: found[0].start()]).strip()):
        yield {"role": "user", "content": said}
    ends = [*(mark.start() for mark in found[1:]), len(text)] if found else []
    for mark, end in zip(found, ends, strict=True):
        said = _MARKS.sub("", text[mark.end() : end]).strip()
        if said:
            name = mark[mark.lastgroup or 0].lower()
            yield {"role": _SPEAKERS.get(name, "user"), "content": said}
