"""What the front end does with a prompt and with a text, where the worker's processor can't see it.

The hooks stand in the process that takes requests, in servers and in scripts alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from prism.config import Settings
from prism.steer import stamp
from prism.types import Action, Stage
from vllm_prism.errors import UnmoderatableError

if TYPE_CHECKING:
    from prism.match.phrases import PhraseSet

_CHARACTER = 4
"""Tokens that a character may be spelled in."""
REASON = "content_filter"
"""The stop reason of a text that is cut because a control token's name would end a phrase in it."""
Check = Callable[[str, int, list[str], bool], tuple[str, int] | None]


def install() -> None:
    """Put the hooks in."""
    from vllm.v1.engine import detokenizer
    from vllm.v1.engine.input_processor import InputProcessor

    detokenizer.check_stop_strings = cut_before_phrases(detokenizer.check_stop_strings)
    base, fast = detokenizer.BaseIncrementalDetokenizer, detokenizer.FastIncrementalDetokenizer
    base.get_next_output_text = hold_phrases(base.get_next_output_text)
    base.update = judge_names(base.update)
    fast.__init__ = begin_behind_prompt(fast.__init__)
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


def hold_phrases(get: Callable[[Any, bool, bool], str]) -> Callable[[Any, bool, bool], str]:
    """Return ``get_next_output_text`` that hands out no phrase before the text is whole.

    While a stop string may yet come, vLLM hands out the text up to some characters before its end,
    which may be within a word: "lanterns", of which it keeps back the last letter. A request with a
    stamp has a text layer, which reads what is handed out, and holds back by itself.
    """

    @functools.wraps(get)
    def get_next_output_text(self: Any, finished: bool, delta: bool) -> str:
        held = self.stop_buffer_length
        if finished or not held or getattr(self, "_prism_stamped", False):
            return get(self, finished, delta)
        text: str = self.output_text
        safe = _safe_end(self, text[: max(0, len(text) - held)])
        self.stop_buffer_length = max(held, len(text) - safe)
        try:
            return get(self, finished, delta)
        finally:
            self.stop_buffer_length = held

    return get_next_output_text


def _safe_end(owner: Any, text: str) -> int:
    """Return up to where ``text``, which grows, may end without a phrase. Costs what is new."""
    from prism.steer.state import State  # takes Numba along, as below

    state, read, safe = getattr(owner, "_prism_read", None) or (State(_phrases()), 0, 0)
    for at in range(read, len(text)):
        if not state.read(text[at]):
            safe = at + 1
    owner._prism_read = state, max(read, len(text)), safe
    return min(int(safe), len(text))


def judge_names(update: Callable[..., str | None]) -> Callable[..., str | None]:
    """Return ``update`` that holds the text to the phrases where control tokens are printed.

    To the sampler these add no text. Where it would hold a phrase by their names the text ends
    before that. A request with a stamp has a text layer, which reads what is printed.
    """

    @functools.wraps(update)
    def judged(self: Any, new_token_ids: list[int], stop_terminated: bool) -> str | None:
        stopped = update(self, new_token_ids, stop_terminated)
        if not getattr(self, "_prism_names", False):
            return stopped
        at = len(self.output_text) + 1
        while (first := _first(self.output_text[: at - 1])) is not None:
            at = min(first + 1, at - 1)
        if at > len(self.output_text):
            return stopped
        self.output_text = self.output_text[: at - 1]
        return REASON

    return judged


def begin_behind_prompt(init: Callable[..., None]) -> Callable[..., None]:
    """Return ``FastIncrementalDetokenizer.__init__`` that never prints a prompt.

    vLLM's stream of text begins with the prompt's; where that ends in "�" it takes all of it for
    unfinished, and prints it with the output.
    """

    @functools.wraps(init)
    def __init__(self: Any, tokenizer: Any, request: Any) -> None:
        init(self, tokenizer, request)
        if request.prompt_token_ids and _ends_in_replacement(self, request.prompt_token_ids):
            self.stream = type(self.stream)(skip_special_tokens=self.skip_special_tokens)
        signed = (request.sampling_params.extra_args or {}).get(stamp.FIELD)
        self._prism_stamped = stamp.verify(signed) is not None
        self._prism_names = not self.skip_special_tokens and not self._prism_stamped

    return __init__


def _ends_in_replacement(detokenizer: Any, prompt: Sequence[int]) -> bool:
    """Return whether the text of ``prompt`` ends in "�", as the engine's tokenizer decodes it."""
    tokenizer, skip = detokenizer.tokenizer, detokenizer.skip_special_tokens
    size = _CHARACTER
    while True:
        tail = list(prompt[-size:])
        text: str = tokenizer.decode(tail, skip_special_tokens=skip)
        # Bytes and control tokens alone don't tell where the run of them begins.
        if size >= len(prompt) or any(_is_text(tokenizer, i) for i in tail[:-_CHARACTER]):
            return text.endswith("\ufffd")
        size *= 2


def _is_text(tokenizer: Any, token: int) -> bool:
    """Return whether a token is text alone: neither a byte nor control."""
    piece = tokenizer.id_to_token(token)
    text = tokenizer.decode([token], skip_special_tokens=True)
    return bool(text.strip("\ufffd")) and not (len(piece) == 6 and piece.startswith("<0x"))


def _first(text: str) -> int | None:
    """Return where the first phrase in ``text`` begins."""
    scanner = _phrases().scanner()
    found = scanner.feed(text) + scanner.finish()
    return min((match.start for match in found), default=None)


@cache
def _phrases() -> PhraseSet:
    from prism.match.stages import phrases_of  # takes Numba along, which only this process needs

    return phrases_of(Settings.from_env().strictest, Stage.OUTPUT, Action.STEER)
