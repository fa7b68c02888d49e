"""The token layer of one generation, between the engine's logits and its next token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llamacpp_prism.errors import ModerationFailedError
from llamacpp_prism.grammar import GrammarState
from prism.steer.guard import TokenGuard
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
    ) -> None:
        self._guard = guard
        self._grammar = grammar
        self._narrowed = narrowed or grammar is not None
        self._watermark = watermark
        self._row: TokenRow | None = None
        self._prompt_len = 0
        self._seen: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self._output: list[int] = []
        self._ran = False
        self._stuck = False
        self._failure: BaseException | None = None

    @property
    def refusing(self) -> bool:
        """Whether what is being said is the policy's refusal."""
        return self._row is not None and self._row.refusing

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
            return step.forced
        if self._stuck:
            return self._guard.eos
        if (step.banned == token).any():
            raise ModerationFailedError("the engine sampled a token that is masked")
        if self._grammar is not None and not self._grammar.accept(token):
            raise ModerationFailedError("the engine sampled a token outside the grammar")
        return token

    def hide(self, logits: npt.NDArray[np.float32]) -> None:
        """Take from ``logits``, which logprobs are made of, what was masked in this step."""
        if self._row is None:
            return
        step = self._row.step()
        if step.forced is not None:
            logits[:] = _HIDDEN
            logits[step.forced] = 0.0
        else:
            logits[step.banned] = _HIDDEN

    def _mask(self, input_ids: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]) -> None:
        row = self._follow(input_ids)
        if row.refusing:
            return
        if self._grammar is not None:
            self._grammar.apply(scores)
        row.apply(scores)
        if self._narrowed and not row.refusing and scores.max() == -np.inf:
            # Nothing is left that the request and the policy both allow.
            if row.step().banned.size:
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
            self._row = self._guard.row(input_ids[:start].tolist())
            self._output = input_ids[start:].tolist()
        self._seen = input_ids.copy()
        self._row.advance(self._output)
        return self._row


def with_gate(processors: Sequence[object] | None, gate: Gate) -> list[object]:
    """Return the request's processors with the gate behind them, where none can undo it."""
    return [*(processors or ()), gate]
