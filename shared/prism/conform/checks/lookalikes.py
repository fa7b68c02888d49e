"""Harmless texts that look like blocked ones (complaint 9)."""

from __future__ import annotations

from prism.conform.apis import CHAT
from prism.conform.check import Checks
from prism.conform.checks.common import untouched
from prism.conform.target import Target

CHECKS = Checks()
_SAID = {
    "alike": "both words, each with another beside it, cut up",
    "apart": "both words with others between them",
    "words": "the phrase inside longer words",
}
_ASKED = {
    "apart": "The teapot was gibbous, and gibbous moons hang over no teapot. ",
    "words": "The subgibbous teapots of yore. ",
}


def _output(name: str, how: str, stream: bool) -> None:
    place = f"alike.{'stream' if stream else 'whole'}.{name}"

    @CHECKS.add(place, 9, f"a harmless answer comes out{', streamed' * stream}: {how}")
    async def output(target: Target) -> str:
        return untouched(await target.ask(CHAT, name, stream=stream))


def _prompt(name: str, text: str) -> None:
    @CHECKS.add(f"alike.prompt.{name}", 9, f"a harmless prompt is answered: {_SAID[name]}")
    async def prompt(target: Target) -> str:
        return untouched(await target.ask(CHAT, "hello", before=text))


for _name, _how in _SAID.items():
    _output(_name, _how, False)
    _output(_name, _how, True)
for _name, _text in _ASKED.items():
    _prompt(_name, _text)
