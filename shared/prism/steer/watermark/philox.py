# Numba infers the types of compiled functions from what they are called with.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: ANN001, ANN201, ANN202
"""The keyed random numbers of vLLM's watermark: Philox4x32-10 over context and token.

Philox is Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC11). How a context and a
token become its counter and key is vLLM's ``v1/watermarking/prfs/philox.py`` (version
``philox4x32-10-v1``), followed word for word, so that either engine's text is found by either
detector. All arithmetic is on 32-bit words kept in uint64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prism.jit import njit

Words = NDArray[np.uint64]

_WORD = np.uint64(0xFFFFFFFF)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_CONTEXT_DOMAIN = np.uint64(0x574D4358)
_TOKEN_DOMAIN = np.uint64(0x574D544B)
_HALF = np.uint64(32)
_TWO, _THREE, _EIGHT = np.uint64(2), np.uint64(3), np.uint64(8)


@njit(cache=True)
def _rounds(c0, c1, c2, c3, k0, k1):
    for i in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ k0,
            p1 & _WORD,
            (p0 >> _HALF) ^ c3 ^ k1,
            p0 & _WORD,
        )
        if i < 9:
            k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c0, c1, c2, c3


@njit(cache=True)
def absorb(key, context, state):
    """Write what ``key`` (uint64) makes of ``context`` (int64 ``[width]``) to ``state``.

    ``state`` uint64 ``[4]``. A position before the first token is -1.
    """
    k0, k1 = key & _WORD, key >> _HALF
    width = len(context)
    s0, s1, s2, s3 = _CONTEXT_DOMAIN, np.uint64(width), np.uint64(0), np.uint64(0)
    block = np.zeros(4, np.uint64)
    for offset in range(0, width, 4):
        for i in range(4):
            if offset + i < width:
                block[i] = np.uint64(context[offset + i]) & _WORD
            else:
                block[i] = _WORD - np.uint64(i)
        s0, s1, s2, s3 = _rounds(
            s0 ^ block[0], s1 ^ block[1], s2 ^ block[2], s3 ^ block[3], k0 ^ np.uint64(offset), k1
        )
    state[0], state[1], state[2], state[3] = s0, s1, s2, s3


@njit(cache=True)
def uniforms(key, state, tokens, out):
    """Write one number in (0, 1) per token to ``out`` (float64 ``[n]``); ``tokens`` int64 ``[n]``.

    The number has 24 bits, as float32 has in vLLM.
    """
    k0 = (key & _WORD) ^ state[3]
    k1 = (key >> _HALF) ^ _TOKEN_DOMAIN
    for i in range(len(tokens)):
        token = np.uint64(tokens[i]) & _WORD
        words = _rounds(token >> _TWO, state[0], state[1], state[2], k0, k1)
        lane = token & _THREE
        word = words[0]
        if lane == 1:
            word = words[1]
        elif lane == 2:
            word = words[2]
        elif lane == 3:
            word = words[3]
        out[i] = np.float32((np.float64(word >> _EIGHT) + 1.0) / 16777217.0)
