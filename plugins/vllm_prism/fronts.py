"""What the front end does with a prompt and with a text, where the worker's processor can't see it.

Both hooks stand in the process that takes requests, in servers and in scripts alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from prism.config import Settings
from prism.types import Action, Stage
from vllm_prism.errors import UnmoderatableError

if TYPE_CHECKING:
    from prism.match.phrases import PhraseSet

Check = Callable[[str, int, list[str], bool], tuple[str, int] | None]


def install() -> None:
    """Put the hooks in."""
    from vllm.v1.engine import detokenizer
    from vllm.v1.engine.input_processor import InputProcessor

    detokenizer.check_stop_strings = cut_before_phrases(detokenizer.check_stop_strings)
    InputProcessor.process_inputs = refuse_mixed(InputProcessor.process_inputs)


def refuse_mixed(process: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``process_inputs`` that refuses embeddings among token ids.

    The worker is shown ids for all of them, and can't tell which ones are really read.
    """

    @functools.wraps(process)
    def process_inputs(*args: Any, **kwargs: Any) -> Any:
        request = process(*args, **kwargs)
        known = request.prompt_is_token_ids
        if request.prompt_token_ids is not None and known is not None and not all(known):
            raise UnmoderatableError("prompt_embeds", "embeddings in place of text can't be judged")
        return request

    return process_inputs


def cut_before_phrases(check: Check) -> Check:
    """Return ``check_stop_strings`` that leaves no phrase where a stop string cuts the text.

    A stop string may stand within a word: "lanterns", stopped at "s". The text is then cut before
    the phrase. Held against it is the strictest policy; a server's text layer knows the tenant's.
    """

    @functools.wraps(check)
    def check_stop_strings(
        output_text: str, new_char_count: int, stop: list[str], include_in_output: bool
    ) -> tuple[str, int] | None:
        found = check(output_text, new_char_count, stop, include_in_output)
        if found is None or found[1] == -1:
            return found
        at = found[1]
        while at and (first := _first(output_text[:at])) is not None:
            at = min(first, at - 1)
        return found[0], at

    return check_stop_strings


def _first(text: str) -> int | None:
    """Return where the first phrase in ``text`` begins."""
    scanner = _phrases().scanner()
    found = scanner.feed(text) + scanner.finish()
    return min((match.start for match in found), default=None)


@cache
def _phrases() -> PhraseSet:
    from prism.match.stages import phrases_of  # takes Numba along, which only this process needs

    return phrases_of(Settings.from_env().strictest, Stage.OUTPUT, Action.STEER)
