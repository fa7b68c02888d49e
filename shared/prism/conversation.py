"""A conversation's texts, as p(x) reads them.

A request that is split over turns, with the model's answers in between, is one text to whoever
reads the user's turns alone; so those are read too. A client writes the others' turns as well, so
what is split over those is read likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

Prompt = str | Sequence[Mapping[str, Any]]
"""A prompt, or chat messages: mappings with ``role`` and ``content``."""

WINDOW = 16_000
"""Code points of the latest turns that are read in every combination of speakers, and that score
models read of the user's turns."""

USER = "user"
_MODEL = frozenset({"assistant", "model", "chatbot"})
_PREAMBLE = frozenset({"system", "developer"})
_TOOLS = frozenset({"tool", "function"})
_THE_MODEL, _FRAME, _TOOL = "assistant", "system", "tool"
_SPEAKERS = (USER, _THE_MODEL, _FRAME, _TOOL)
_SPEAKER = {
    **dict.fromkeys(_MODEL, _THE_MODEL), **dict.fromkeys(_PREAMBLE, _FRAME),
    **dict.fromkeys(_TOOLS, _TOOL),
}  # fmt: skip
ASIDE = "aside"
"""Role of what stands beside a conversation (names, ids, a part's other fields), behind all of it:
whatever a template makes of that, it must not keep apart what the model reads as one text."""
_OTHERS = _MODEL | _PREAMBLE | _TOOLS | {"context", ASIDE}

WAYS = ("joined", "alike")
"""Keys of a message under which its content stands once more, put together in another way."""
APART = "apart"
"""Key of a message under which a text stands that is read by itself alone: what is said elsewhere,
as an engine may put it together."""


def prompt_text(prompt: Prompt) -> str:
    """Return the text of a prompt or of chat messages, one per line, in order.

    Raises ``TypeError`` for shapes that hold text it can't see.
    """
    return prompt if isinstance(prompt, str) else "\n".join(text for _, text in turns(prompt))


def turns(prompt: Prompt, way: str = "content") -> list[tuple[str, str]]:
    """Return (role, text) of every message that has text. Raises ``TypeError`` likewise.

    Who isn't known to be somebody else is the user: a made-up role hides nothing. ``way``: one of
    :data:`WAYS`, for the messages that have it.
    """
    if isinstance(prompt, str):
        return [(USER, prompt)] if prompt else []
    found = []
    for message in prompt:
        parts = list(_content(message.get(way, message.get("content"))))
        if parts:
            role = message.get("role")
            found.append((role if role in _OTHERS else USER, "\n".join(parts)))
    return found


def views(prompt: Prompt, window: int = WINDOW) -> tuple[str, ...]:
    """Return the texts that patterns are looked for in.

    First all messages, whole. Then what is left of them without those of some speakers, wherever
    something stands between what is left: the turns of each speaker alone, and everything but the
    model's; of every other combination the latest ``window`` code points, so that the work for a
    long conversation is bounded. All that once more for each of :data:`WAYS` that a message has.
    Last what stands :data:`APART`.
    """
    if isinstance(prompt, str):
        return (prompt,)
    ways = [way for way in WAYS if any(way in message for message in prompt)]
    found = [text for way in ("content", *ways) for text in _views(turns(prompt, way), window)]
    found += [message[APART] for message in prompt if message.get(APART)]
    return tuple(dict.fromkeys(found))


def _views(said: list[tuple[str, str]], window: int) -> list[str]:
    found = ["\n".join(text for _, text in said)]
    speakers = [_SPEAKER.get(role, role) for role, _ in said]
    there = [speaker for speaker in _SPEAKERS if speaker in speakers]
    given = frozenset(speakers) - {_THE_MODEL, ASIDE}
    heard = [frozenset(some) for n in range(1, len(there)) for some in combinations(there, n)]
    for some in dict.fromkeys([*heard, given]):
        places = [place for place, speaker in enumerate(speakers) if speaker in some]
        while len(places) > 1 and places[1] == places[0] + 1 and speakers[places[0]] == _FRAME:
            places.pop(0)  # beside what follows it in the whole, too, and often long
        if len(places) > 1 and places[-1] - places[0] >= len(places):
            texts = [said[place][1] for place in places]
            full = len(some) == 1 or some == given
            found.append("\n".join(texts) if full else _latest(texts, window))
    return found


def readings(prompt: Prompt, window: int = WINDOW) -> tuple[str, ...]:
    """Return the texts that score models read: each differs from the others and none is empty.

    The user's last turn, as models know prompts; the user's turns together, within ``window``; all
    messages, whole.
    """
    said = turns(prompt)
    users = [text for role, text in said if role == USER]
    found = users[-1:]
    if len(users) > 1:
        found.append(_latest(users, window))
    found.append("\n".join(text for _, text in said))
    return tuple(dict.fromkeys(text for text in found if text))


def last_turn(prompt: Prompt) -> str:
    """Return the user's last turn; without one, all there is."""
    if isinstance(prompt, str):
        return prompt
    said = turns(prompt)
    users = [text for role, text in said if role == USER]
    return users[-1] if users else "\n".join(text for _, text in said)


def _latest(texts: Sequence[str], window: int) -> str:
    joined = "\n".join(texts)
    if len(joined) <= window:
        return joined
    tail = joined[-window:]
    # Not in the middle of a word: what is left of it might look like another one.
    cut = next((place for place, char in enumerate(tail) if char.isspace()), 0)
    return tail[cut:]


def _content(content: object) -> Iterator[str]:
    if content is None:
        return
    if isinstance(content, str):
        if content:
            yield content
    elif isinstance(content, Sequence):
        for part in content:
            if isinstance(part, str):
                yield part
            elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]
            elif not isinstance(part, Mapping):
                raise TypeError(f"a content part is a {type(part).__name__}, not text")
    else:
        raise TypeError(f"message content is a {type(content).__name__}, not text or a list")
