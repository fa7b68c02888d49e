# Triton compiles these functions from their source: no annotation but ``constexpr`` means anything.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201
"""Within a character only what keeps to UTF-8 may be sampled: ``prism.steer.utf8`` in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from prism.steer import arena as a
from prism.steer import utf8
from vllm_prism import fields as f

_HERE = tl.constexpr(f.HERE)
_START = tl.constexpr(f.START)
_LIVE = tl.constexpr(f.LIVE)
_ROW_FIELDS = tl.constexpr(f.ROW_FIELDS)
_STATE = tl.constexpr(a.HALF_STATE)
_STATE_FIELDS = tl.constexpr(a.STATE_FIELDS)
_BROKEN = tl.constexpr(utf8.BROKEN)


@triton.jit(do_not_specialize=["columns"], do_not_specialize_on_alignment=["logits"])
def keep_valid(
    logits, stride, columns, follows, known, row_fields, row_states,
    RING: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program ``r, p``: within a character, mask what doesn't go on with it in UTF-8 in row ``r``.

    The end of the text may follow. Every ``p``-th block of the logits is looked at.
    """
    row = tl.program_id(0)
    of_row = row_fields + row * _ROW_FIELDS
    within = tl.load(row_states + row.to(tl.int64) * (LANES * (_STATE_FIELDS + RING)) + _STATE)
    within = within.to(tl.int32)
    asked = (tl.load(of_row + _LIVE) != 0) & (tl.load(of_row + _HERE) < tl.load(of_row + _START))
    if asked & (within != 0) & (within != _BROKEN):
        mine = logits + row.to(tl.int64) * stride
        begin = tl.program_id(1) * BLOCK
        for low in range(begin, columns, tl.num_programs(1) * BLOCK):
            i = low + tl.arange(0, BLOCK)
            behind = tl.load(follows + within * known + i, mask=i < known, other=_BROKEN)
            tl.store(mine + i, float("-inf"), mask=(i < columns) & (behind.to(tl.int32) == _BROKEN))
