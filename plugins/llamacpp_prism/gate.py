"""The token layer of one generation, between the engine's logits and its next token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llamacpp_prism.errors import ModerationFailedError
from llamacpp_prism.grammar import GrammarState
from prism.steer.guard import TokenGuard
from prism.steer.rewind import Rewinder
from prism.steer.row import TokenRow
from prism.steer.watermark import Watermark

_HIDDEN = np.float32(-1e30)
"""What logprobs show of a masked token: next to nothing, and still a number in JSON."""


class Gate:
    """Masks the logits, then has the last word on the token that came of them.

    The engine calls it from C, where an exception would be lost and decoding would go on
    unmasked; and what follows in the sampler chain may turn -inf into NaN or choose among nothing
    but -inf. So the mask steers, and ``settle`` guarantees.
    """

    def __init__(
        self,
        guard: TokenGuard,
        grammar: GrammarState | None = None,
        *,
        narrowed: bool = False,
        watermark: Watermark | None = None,
        locale: str | None = None,
    ) -> None:
        """``locale``: what is refused is refused in it."""
        self.guard = guard
        self.locale = locale
        self._grammar = grammar
        self._narrowed = narrowed or grammar is not None
        self._watermark = watermark
        self.rewinder = Rewinder(guard.vocabulary)
        self._forbidden: dict[int, list[int]] = {}  # output tokens said -> not to go on with these
        self._row: TokenRow | None = None
        self._prompt_len = 0
        self._seen: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._output: list[int] = []
        self._ran = False
        self._stuck = False
        self._failure: BaseException | None = None

    def refused(self, count: int) -> bool:
        """Return whether the first ``count`` output tokens hold some of the policy's refusal."""
        at = None if self._row is None else self._row.refused_at
        return at is not None and at < count

    def __call__(
        self, input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Mask ``scores`` in place: the engine's logits processor."""
        self._ran = True
        try:
            self._mask(input_ids, scores)
        except BaseException as failure:  # ctypes would drop it, a keyboard interrupt too
            self._failure = failure
            scores[:] = -np.inf
        return scores

    def settle(self, token: int) -> int:
        """Return the token that may be output where the engine sampled ``token``."""
        ran, self._ran = self._ran, False
        if self._failure is not None:
            if not isinstance(self._failure, Exception):
                raise self._failure
            raise ModerationFailedError("moderation failed; nothing more is generated") from (
                self._failure
            )
        if not ran or self._row is None:
            raise ModerationFailedError("the engine sampled a token without calling the guard")
        step = self._row.step()
        if step.forced is not None:
            self.rewinder.give_up()
            return step.forced
        if self._stuck:
            return self.guard.eos
        if step.bans(token):
            raise ModerationFailedError("the engine sampled a token that is masked")
        if self._grammar is not None and not self._grammar.accept(token):
            raise ModerationFailedError("the engine sampled a token outside the grammar")
        return token

    def hide(self, logits: npt.NDArray[np.float32]) -> None:
        """Take from ``logits``, which logprobs are made of, what was masked in this step."""
        if self._row is None:
            return
        step = self._row.step()
        step.write(logits, float(_HIDDEN))
        if step.forced is None:
            logits[self._forbidden.get(len(self._output), [])] = _HIDDEN

    def rewind(self) -> int:
        """Follow the engine back to where the rewinder wants it; return the output's length there.

        The token that began the attempt is forbidden at that place.
        """
        place = self.rewinder.place
        if place is None or self._row is None:
            raise ModerationFailedError("there is no place to rewind to")
        self.rewinder.rewind()
        at, kept = place.length, self._output[: place.length]
        # What was forbidden further on was so behind other words.
        self._forbidden = {n: ids for n, ids in self._forbidden.items() if n <= at}
        self._forbidden.setdefault(at, []).append(place.token)
        self._output, self._seen = kept, self._seen[: self._prompt_len + at]
        self._row.rewind(kept)
        if self._grammar is not None:
            self._grammar.restart(kept)
        if self._watermark is not None:
            self._watermark.rewind(kept)
        return at

    def _mask(self, input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        row = self._follow(input_ids)
        if row.refusing:
            return
        if self._grammar is not None:
            self._grammar.apply(scores)
        forbidden = self._forbidden.get(len(self._output), []) if self._forbidden else []
        if forbidden:
            scores[forbidden] = -np.inf
        if row.apply(scores):
            self.rewinder.kept_from(row.state, len(self._output))
        narrowed = self._narrowed or forbidden or row.step().allowed is not None
        if narrowed and not row.refusing and scores.max() == -np.inf:
            # Nothing is left that the request and the policy both allow.
            if not row.step().empty or forbidden:
                row.refuse()
            else:
                self._stuck = True
        if self._watermark is not None and not row.refusing and not self._stuck:
            # Last, so that what the policy and the grammar have masked can't win.
            chosen = self._watermark.pick(scores, self._output)
            if chosen is not None:
                kept = scores[chosen]
                scores[:] = -np.inf
                scores[chosen] = kept

    def _follow(self, input_ids: npt.NDArray[np.int32]) -> TokenRow:
        known, start = len(self._seen), self._prompt_len
        if np.array_equal(input_ids[:known], self._seen) and self._row is not None:
            self._output.extend(input_ids[known:].tolist())
        else:
            # The first token; or a script has set the context back, or replaced it.
            if start == 0 or not np.array_equal(input_ids[:start], self._seen[:start]):
                self._prompt_len = start = len(input_ids)
            self._row = self.guard.row(input_ids[:start].tolist(), self.locale)
            self._output = input_ids[start:].tolist()
        self._seen = input_ids.copy()
        self._row.advance(self._output)
        return self._row


def with_gate(processors: Sequence[object] | None, gate: Gate) -> list[object]:
    """Return the request's processors with the gate behind them, where none can undo it."""
    return [*(processors or ()), gate]
