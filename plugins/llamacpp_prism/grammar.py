"""A llama.cpp grammar, applied before the mask and advanced only by tokens that it allows.

Left in the sampler chain, a grammar kills the whole process (``std::runtime_error``, uncaught) as
soon as the mask leaves none of its tokens, and an unparsable one is a null pointer in the chain.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Iterable
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from llamacpp_prism.errors import GrammarError

_LOGIT_OFFSET: int = llama_cpp.llama_token_data.logit.offset
_STRIDE = ctypes.sizeof(llama_cpp.llama_token_data)


class GrammarState:
    """The grammar of one generation and how far it has been followed."""

    def __init__(self, vocab: Any, grammar: Any) -> None:
        self._sampler = llama_cpp.llama_sampler_init_grammar(
            vocab, grammar._grammar.encode(), grammar._root.encode()
        )
        if not self._sampler:
            raise GrammarError(
                "the grammar can't be parsed; see llama.cpp's grammars/README.md for GBNF"
            )
        weakref.finalize(self, llama_cpp.llama_sampler_free, self._sampler)

    def apply(self, scores: npt.NDArray[np.float32]) -> None:
        """Set what the grammar forbids to -inf, in place; ``scores`` view an engine array."""
        if scores.strides != (_STRIDE,):
            raise TypeError("these logits don't lie in an array of the engine's")
        address = scores.__array_interface__["data"][0] - _LOGIT_OFFSET
        self._apply((llama_cpp.llama_token_data * len(scores)).from_address(address))

    def accept(self, token: int) -> bool:
        """Go on by ``token`` and return True, or return False if the grammar forbids it."""
        candidate = (llama_cpp.llama_token_data * 1)((token, 0.0, 0.0))
        self._apply(candidate)
        if math.isinf(candidate[0].logit):
            return False
        llama_cpp.llama_sampler_accept(self._sampler, token)
        return True

    def restart(self, tokens: Iterable[int]) -> None:
        """Go back to the start, and on by ``tokens``, which it has allowed before."""
        llama_cpp.llama_sampler_reset(self._sampler)
        for token in tokens:
            llama_cpp.llama_sampler_accept(self._sampler, token)

    def _apply(self, candidates: Any) -> None:
        data = ctypes.cast(candidates, ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data, len(candidates), -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
