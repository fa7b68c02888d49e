# Triton compiles these functions from their source: no annotation but ``constexpr`` means anything.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: ANN001, ANN201, ANN202
"""One engine step on the device, in six launches at most, without a word to the host.

``read_rows``: each row's state, from its slot's, by the tokens committed since and the drafts
before it. ``score_rows`` (``vllm_prism.scoring``): the same for the sketch. ``keep_valid``
(``vllm_prism.wellformed``): within a character, nothing but what keeps to UTF-8. ``try_tokens``:
what may complete a phrase is tried, and masked where it does. ``mask_lists``: the tokens that hold
a phrase themselves. ``decide``: refusals, and what is kept for the next step.

Nobody looks at a whole row of logits unless a masked token may be the likeliest, or the row is
forced: reading all of them would cost more than the rest together. What changes from step to step
is not specialised on, so that nothing is compiled while requests wait.
"""

from __future__ import annotations

import triton
import triton.language as tl

from prism.match import kernel as host
from prism.steer import arena as a
from prism.steer import utf8
from vllm_prism import fields as f
from vllm_prism.circling import in_circles, look_due, turn_counts
from vllm_prism.kernels import read

_SLOT = tl.constexpr(f.SLOT)
_LOCAL = tl.constexpr(f.LOCAL)
_HERE = tl.constexpr(f.HERE)
_FIRST_POS = tl.constexpr(f.FIRST_POS)
_START = tl.constexpr(f.START)
_LIVE = tl.constexpr(f.LIVE)
_LOST = tl.constexpr(f.LOST)
_POLICY = tl.constexpr(f.POLICY)
_TURNED = tl.constexpr(f.TURNED)
_ROW_FIELDS = tl.constexpr(f.ROW_FIELDS)
_REFUSE_FROM = tl.constexpr(f.REFUSE_FROM)
_PENDING = tl.constexpr(f.PENDING)
_SEEN = tl.constexpr(f.SEEN)
_PROMPT = tl.constexpr(f.PROMPT)
_STRUCTURED = tl.constexpr(f.STRUCTURED)
_SLOT_POLICY = tl.constexpr(f.SLOT_POLICY)
_SLOT_TURNED = tl.constexpr(f.SLOT_TURNED)
_TURNING = tl.constexpr(f.TURNING)
_SLOT_FIELDS = tl.constexpr(f.SLOT_FIELDS)
_NEVER = tl.constexpr(f.NEVER)
_STATE_FIELDS = tl.constexpr(a.STATE_FIELDS)
_VIEW_FIELDS = tl.constexpr(a.VIEW_FIELDS)
_POLICY_FIELDS = tl.constexpr(a.POLICY_FIELDS)
_NODE = tl.constexpr(a.NODE)
_COUNT = tl.constexpr(a.COUNT)
_GAP = tl.constexpr(a.GAP)
_LAST = tl.constexpr(a.LAST)
_PREVIOUS = tl.constexpr(a.PREVIOUS)
_DUE = tl.constexpr(a.HALF_DUE)
_POINT = tl.constexpr(a.HALF_POINT)
_STATE = tl.constexpr(a.HALF_STATE)
_BROKEN = tl.constexpr(utf8.BROKEN)
_RANGE_START = tl.constexpr(a.RANGE_START)
_RANGE_LOW = tl.constexpr(a.RANGE_LOW)
_RANGE_HIGH = tl.constexpr(a.RANGE_HIGH)
_RANGE_ANY = tl.constexpr(a.RANGE_ANY)
_RANGE_FAIL = tl.constexpr(a.RANGE_FAIL)
_RANGE_BASE = tl.constexpr(a.RANGE_BASE)
_DEPTH = tl.constexpr(a.DEPTH)
_INSIDE = tl.constexpr(a.INSIDE)
_INITIAL = tl.constexpr(a.INITIAL_SHIFT)
_AT_START = tl.constexpr(a.AT_START)
_AT_START_LEVEL = tl.constexpr(a.AT_START_LEVEL)
_AT_START_SIZE = tl.constexpr(a.AT_START_SIZE)
_ALWAYS = tl.constexpr(a.ALWAYS)
_ALWAYS_LEVEL = tl.constexpr(a.ALWAYS_LEVEL)
_ALWAYS_SIZE = tl.constexpr(a.ALWAYS_SIZE)
_JUDGED = tl.constexpr(a.JUDGED)
_WITHIN = tl.constexpr(a.WITHIN)
_WITHIN_SIZE = tl.constexpr(a.WITHIN_SIZE)
_REFUSE = tl.constexpr(a.REFUSE)
_VIEWS = tl.constexpr(host.VIEWS)
_PLAIN = tl.constexpr(host.PLAIN)
SOURCES = host.VIEWS + 1
"""Where candidates come from: the ranges of each view's node; or, while a character is half-read,
the tokens that may go on with it."""
_SOURCES = tl.constexpr(SOURCES)
_MINUS_INFINITY = tl.constexpr(-8388608)  # of float32, as int32
_LEAST_KEY = tl.constexpr(-(2**63))
LEAST_KEY = -(2**63)


@triton.jit
def _state(fields):
    """Return the numbers of each lane's state, as ``kernels.read`` takes them."""
    node = tl.load(fields + _NODE).to(tl.int32)
    count = tl.load(fields + _COUNT).to(tl.int32)
    gap = tl.load(fields + _GAP).to(tl.int32)
    last = tl.load(fields + _LAST).to(tl.int32)
    previous = tl.load(fields + _PREVIOUS).to(tl.int32)
    due = tl.load(fields + _DUE).to(tl.int32)
    point = tl.load(fields + _POINT).to(tl.int32)
    state = tl.load(fields + _STATE).to(tl.int32)
    return node, count, gap, last, previous, due, point, state


@triton.jit
def _copy(target, source, size: tl.constexpr, CHUNK: tl.constexpr):
    """Copy ``size`` numbers."""
    for at in range(0, size, CHUNK):
        i = at + tl.arange(0, CHUNK)
        tl.store(target + i, tl.load(source + i, mask=i < size), mask=i < size)


@triton.jit(
    do_not_specialize=["most"],
    do_not_specialize_on_alignment=["mapping", "local_pos", "pos", "input_ids"],
)
def read_rows(
    data, views, policies, common, codes, tokens, follows, known,
    slot_fields, slot_states, row_fields, row_states, tops, ids, id_stride,
    mapping, local_pos, pos, input_ids, most,
    RING: tl.constexpr, LANES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Program ``r``: the state of row ``r``. ``known``: ids below are tokens of the vocabulary."""
    row = tl.program_id(0)
    slot = tl.load(mapping + row).to(tl.int64)
    local = tl.load(local_pos + row).to(tl.int32)
    here = tl.load(pos + row).to(tl.int32) + 1
    first = here - local
    own = slot_fields + slot * _SLOT_FIELDS
    seen = tl.load(own + _SEEN)
    policy = tl.load(own + _SLOT_POLICY)
    # Rows in the middle of a prompt are computed and thrown away: they must change nothing.
    live = first >= seen
    begun = tl.load(own + _PENDING)
    start = tl.load(own + _REFUSE_FROM)
    start = tl.minimum(start, tl.where(live & (begun < first), begun, _NEVER))

    width = LANES * (_STATE_FIELDS + RING)
    source = slot_states + slot * width
    target = row_states + row.to(tl.int64) * width
    _copy(target, source, width, CHUNK)
    tl.debug_barrier()

    lane = tl.arange(0, LANES)
    fields = target + lane * _STATE_FIELDS
    ring = (row.to(tl.int64) * width + LANES * _STATE_FIELDS) + lane * RING
    h = views + (policy.to(tl.int64) * LANES + lane) * _VIEW_FIELDS
    node, count, gap, last, previous, due, point, state = _state(fields)
    # Where no phrase is kept out, what is no UTF-8 is as good as anything.
    judged = tl.load(policies + policy.to(tl.int64) * _POLICY_FIELDS + _JUDGED) != 0
    state = tl.where(judged, state, 0)
    # A step was missed: what was sampled in it is unknown.
    lost = first - seen > most
    new = tl.where(live, tl.minimum(first - seen, most), 0)
    for j in range(0, new + local):
        if j < new:
            token = tl.load(ids + slot * id_stride + seen + j).to(tl.int32)
        else:
            token = tl.load(input_ids + row - local + (j - new) + 1).to(tl.int32)
        # Logits behind the vocabulary add no text; what is below it is no token at all.
        lost = lost | (token < 0)
        some_text = (token >= 0) & (token < known)
        before = tl.max(state, 0)
        node, count, gap, last, previous, due, point, state, _ = read(
            data, common, codes, tokens, follows, known, h, lane, row_states, ring, ring, 0,
            RING - 1, node, count, gap, last, previous, due, point, state,
            tl.full(lane.shape, 0, tl.int32) + token, lane < tl.where(some_text, _VIEWS, 0), False,
        )  # fmt: skip
        state = tl.where(judged, state, 0)
        # What a decoder makes of bytes that are no UTF-8 is not known: behind them it refuses.
        breaks = (before != _BROKEN) & (tl.max(state, 0) == _BROKEN)
        start = tl.minimum(start, tl.where(breaks, seen + j + 1, _NEVER))
    lost = lost | ((tl.max(state, 0) == _BROKEN) & (here < start))
    turned = tl.load(own + _SLOT_TURNED)
    turning = tl.load(own + _TURNING)
    turned = tl.where(live & (turning < first), turning, turned)
    if live & (here < start) & look_due(turned, here):
        drafts = input_ids + row - local + 1
        prompt = tl.load(own + _PROMPT)
        circles = in_circles(ids + slot * id_stride, drafts, first, prompt, turned, here)
        lost = lost | circles
    tl.store(fields + _NODE, node.to(tl.int64))
    tl.store(fields + _COUNT, count.to(tl.int64))
    tl.store(fields + _GAP, gap.to(tl.int64))
    tl.store(fields + _LAST, last.to(tl.int64))
    tl.store(fields + _PREVIOUS, previous.to(tl.int64))
    tl.store(fields + _DUE, due.to(tl.int64))
    tl.store(fields + _POINT, point.to(tl.int64))
    tl.store(fields + _STATE, state.to(tl.int64))
    of_row = row_fields + row * _ROW_FIELDS
    tl.store(of_row + _SLOT, slot.to(tl.int32))
    tl.store(of_row + _LOCAL, local)
    tl.store(of_row + _HERE, here)
    tl.store(of_row + _FIRST_POS, first)
    tl.store(of_row + _START, start)
    tl.store(of_row + _LIVE, live.to(tl.int32))
    tl.store(of_row + _LOST, lost.to(tl.int32))
    tl.store(of_row + _POLICY, policy)
    tl.store(of_row + _TURNED, turned)
    tl.store(tops + 2 * row, _LEAST_KEY)
    tl.store(tops + 2 * row + 1, _LEAST_KEY)


@triton.jit
def _key(bits, token):
    """Return a number that orders tokens by their logit (a float32's bits), then by their id."""
    ordered = tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(tl.int64)
    return (ordered << 32) | (0x7FFFFFFF - token).to(tl.int64)


@triton.jit
def _ban(logits, tops, row, token, level, live):
    """Mask tokens; note the likeliest of those refused and of those steered around."""
    bits = tl.atomic_xchg(logits + token, _MINUS_INFINITY, mask=live)
    # Whoever comes first sees the logit; the others see that it is gone.
    fresh = live & (bits != _MINUS_INFINITY)
    key = _key(bits, token)
    refused = tl.max(tl.where(fresh & (level >= _REFUSE), key, _LEAST_KEY), 0)
    steered = tl.max(tl.where(fresh & (level < _REFUSE), key, _LEAST_KEY), 0)
    if refused != _LEAST_KEY:
        tl.atomic_max(tops + 2 * row, refused)
    if steered != _LEAST_KEY:
        tl.atomic_max(tops + 2 * row + 1, steered)


@triton.jit
def _ranges(data, of_view, states, ring, ring_mask, count, squeezed, at):
    """Return the node ``at``, or 0 where the chain has no more, and its first and last range."""
    some = (at != 0) & (tl.load(data + tl.load(of_view + _RANGE_ANY) + at) != 0)
    at = tl.where(some, at, 0)
    starts = data + tl.load(of_view + _RANGE_START)
    i = tl.where(some, tl.load(starts + at), 0)
    end = tl.where(some, tl.load(starts + at + 1), 0)
    # In the squeezed views what began within a word is no hit, but of patterns that may.
    depth = tl.load(data + tl.load(of_view + _DEPTH) + at)
    inside = tl.load(data + tl.load(of_view + _INSIDE) + at)
    first = tl.load(states + ring + ((count - depth) & ring_mask))
    kept = (squeezed == 0) | (inside != 0) | ((first >> _INITIAL & 1) != 0)
    return at, tl.where(kept, i, end), end


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["logits"])
def try_tokens(
    logits, stride, data, views, common, codes, tokens, follows, known,
    slot_fields, row_fields, row_states, scratch, tops, rows,
    RING: tl.constexpr, LANES: tl.constexpr, TRIED: tl.constexpr,
):  # fmt: skip
    """Work item ``w``: the candidates of source ``w % SOURCES`` in row ``w // SOURCES``.

    ``TRIED`` at a time, each in every view. From ``scratch`` on, ``row_states`` has a ring per
    program and lane.
    """
    width = LANES * (_STATE_FIELDS + RING)
    lanes = tl.arange(0, TRIED * LANES)
    view = lanes % LANES
    place = lanes // LANES
    bits = logits.to(tl.pointer_type(tl.int32), bitcast=True)
    rings = row_states
    lane_ring = scratch + (tl.program_id(0).to(tl.int64) * TRIED * LANES + lanes) * RING
    work = tl.program_id(0)
    while work < rows * _SOURCES:
        row = work // _SOURCES
        source = work % _SOURCES
        of_row = row_fields + row * _ROW_FIELDS
        slot = tl.load(of_row + _SLOT).to(tl.int64)
        if (source == 0) & (tl.load(of_row + _LOCAL) == 0):
            tl.store(slot_fields + slot * _SLOT_FIELDS + _PENDING, _NEVER)
            tl.store(slot_fields + slot * _SLOT_FIELDS + _TURNING, _NEVER)
        state = row_states + row.to(tl.int64) * width
        whole = tl.load(state + _DUE) == 0
        asked = (tl.load(of_row + _LIVE) != 0) & (
            tl.load(of_row + _HERE) < tl.load(of_row + _START)
        )
        asked = asked & ((source < _VIEWS) == whole)
        if asked:
            policy = tl.load(of_row + _POLICY).to(tl.int64)
            h = views + (policy * LANES + view) * _VIEW_FIELDS
            fields = state + view * _STATE_FIELDS
            node, count, gap, last, previous, due, point, utf = _state(fields)
            row_ring = row.to(tl.int64) * width + LANES * _STATE_FIELDS + view * RING
            own = tl.maximum(count - 1, 0)
            # A candidate may lengthen the last symbol: each lane has it.
            tl.store(
                rings + lane_ring + (own & (RING - 1)),
                tl.load(rings + row_ring + (own & (RING - 1))),
            )
            tl.debug_barrier()

            at = tl.load(state + source * _STATE_FIELDS + _NODE, mask=source < _VIEWS, other=0)
            from_view = views + (policy * LANES + source) * _VIEW_FIELDS
            low = tl.full((), 0, tl.int64)
            high = tl.full((), 0, tl.int64)
            if source >= _VIEWS:
                from_view = views + (policy * LANES + _PLAIN) * _VIEW_FIELDS
                low = tl.load(common + _WITHIN)
                high = low + tl.load(common + _WITHIN_SIZE)
            lows = data + tl.load(from_view + _RANGE_LOW)
            highs = data + tl.load(from_view + _RANGE_HIGH)
            fails = data + tl.load(from_view + _RANGE_FAIL)
            base = tl.load(from_view + _RANGE_BASE)
            squeezed = (source != _PLAIN) & (source < _VIEWS)
            viewed = tl.where(source < _VIEWS, source, _PLAIN)
            symbols = tl.load(state + viewed * _STATE_FIELDS + _COUNT)
            its_ring = row.to(tl.int64) * width + LANES * _STATE_FIELDS + viewed * RING
            at, i, end = _ranges(
                data, from_view, row_states, its_ring, RING - 1, symbols, squeezed, at
            )
            certain = source == _PLAIN
            busy = (low < high) | (at != 0)
            while busy:
                while low < high:
                    there = low + place < high
                    token = tl.load(data + low + place, mask=there, other=0)
                    tried = there & (view < _VIEWS)
                    _, _, _, _, _, _, _, _, level = read(
                        data, common, codes, tokens, follows, known, h, view, rings, row_ring,
                        lane_ring, own, RING - 1, node, count, gap, last, previous, due, point, utf,
                        token, tried, True,
                    )  # fmt: skip
                    worst = tl.max(tl.reshape(level, [TRIED, LANES]), 1)
                    worst = tl.broadcast_to(worst[:, None], [TRIED, LANES])
                    worst = tl.reshape(worst, [TRIED * LANES])
                    live = there & (view == 0) & (tl.where(certain, 1, worst) > 0)
                    _ban(bits + row.to(tl.int64) * stride, tops, row, token, worst, live)
                    # What a candidate wrote over the last symbol the next one finds as it was.
                    tl.debug_barrier()
                    tl.store(
                        rings + lane_ring + (own & (RING - 1)),
                        tl.load(rings + row_ring + (own & (RING - 1))),
                    )
                    tl.debug_barrier()
                    low += TRIED
                # On to the next range of the node, or to the next node of the chain.
                while (i == end) & (at != 0):
                    at, i, end = _ranges(
                        data, from_view, row_states, its_ring, RING - 1, symbols, squeezed,
                        tl.load(fails + at).to(tl.int64),
                    )  # fmt: skip
                busy = i != end
                if busy:
                    low = base + tl.load(lows + i)
                    high = base + tl.load(highs + i)
                    i += 1
        work += tl.num_programs(0)


@triton.jit(do_not_specialize_on_alignment=["logits"])
def mask_lists(
    logits, stride, data, policies, row_fields, row_states, tops,
    RING: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program ``r, p``: of row ``r``, every ``p``-th block of the tokens that hold a phrase."""
    row = tl.program_id(0)
    of_row = row_fields + row * _ROW_FIELDS
    state = row_states + row.to(tl.int64) * (LANES * (_STATE_FIELDS + RING))
    asked = (tl.load(of_row + _LIVE) != 0) & (tl.load(of_row + _HERE) < tl.load(of_row + _START))
    # While a character is half-read what goes on with it is tried.
    if asked & (tl.load(state + _DUE) == 0):
        lists = policies + tl.load(of_row + _POLICY).to(tl.int64) * _POLICY_FIELDS
        # Those that must begin a word: behind anything but a letter.
        starts = tl.load(state + _PREVIOUS) != 0
        bits = logits.to(tl.pointer_type(tl.int32), bitcast=True) + row.to(tl.int64) * stride
        for which in tl.static_range(2):
            if which == 0:
                at = tl.load(lists + _ALWAYS)
                levels = tl.load(lists + _ALWAYS_LEVEL)
                size = tl.load(lists + _ALWAYS_SIZE)
            else:
                at = tl.load(lists + _AT_START)
                levels = tl.load(lists + _AT_START_LEVEL)
                size = tl.where(starts, tl.load(lists + _AT_START_SIZE), 0)
            begin = tl.program_id(1).to(tl.int64) * BLOCK
            for low in range(begin, size, tl.num_programs(1) * BLOCK):
                i = low + tl.arange(0, BLOCK)
                token = tl.load(data + at + i, mask=i < size, other=0)
                level = tl.load(data + levels + i, mask=i < size, other=0)
                _ban(bits, tops, row, token, level, i < size)


@triton.jit(do_not_specialize=["longest", "eos"], do_not_specialize_on_alignment=["logits"])
def decide(
    logits, stride, columns, slot_fields, slot_states, row_fields, row_states, tops,
    refusals, longest, eos, slot_scores, row_scores,
    RING: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr, SCORES: tl.constexpr,
):  # fmt: skip
    """Program ``r``: force the refusal in row ``r`` where it is due; keep the slot's new state.

    ``SCORES``: numbers in a state of the scores, 0 where none is watched.
    """
    row = tl.program_id(0)
    of_row = row_fields + row * _ROW_FIELDS
    slot = tl.load(of_row + _SLOT).to(tl.int64)
    here = tl.load(of_row + _HERE)
    start = tl.load(of_row + _START)
    live = tl.load(of_row + _LIVE) != 0
    own = slot_fields + slot * _SLOT_FIELDS
    mine = logits + row.to(tl.int64) * stride
    refused = tl.load(tops + 2 * row)
    steered = tl.load(tops + 2 * row + 1)
    refusing = here >= start
    # Does the model want what is refused? Not if anything left is likelier. Is anything left?
    wanted = refused > steered
    turning = steered > refused
    stuck = live & (refusing == 0)
    at = tl.full((), 0, tl.int32)
    while (wanted | stuck | turning) & (at < columns):
        i = at + tl.arange(0, BLOCK)
        value = tl.load(mine + i, mask=i < columns, other=float("-inf"))
        best = tl.max(_key(value.to(tl.int32, bitcast=True), i), 0)
        wanted = wanted & (best < refused)
        turning = turning & (best < steered)
        stuck = stuck & (tl.max((value > float("-inf")).to(tl.int32), 0) == 0)
        at += BLOCK
    wants = stuck | (tl.load(of_row + _LOST) != 0) & live | wanted
    structured = tl.load(own + _STRUCTURED) != 0
    # A grammar rejects the refusal's tokens: mask only, and end where nothing else is left.
    begin = wants & (refusing == 0) & live & (structured == 0)
    ends = stuck | ((tl.load(of_row + _LOST) != 0) & live)
    forced = refusing | tl.where(structured, ends, wants)
    if forced:
        index = tl.minimum(tl.where(refusing, here - start, 0), longest - 1)
        prompt = tl.load(own + _PROMPT)
        inside = tl.where(refusing, start > prompt, here > prompt)
        policy = tl.load(of_row + _POLICY).to(tl.int64)
        which = (policy * 2 + inside.to(tl.int64)) * longest + index
        token = tl.where(structured, eos, tl.load(refusals + which))
        for at in range(0, columns, BLOCK):
            i = at + tl.arange(0, BLOCK)
            tl.store(mine + i, tl.where(i == token, 0.0, float("-inf")), mask=i < columns)
    if begin:
        tl.atomic_min(own + _PENDING, here)
    # A mask keeps the model from its likeliest token: that may send it round in circles.
    turning = turning & live & (forced == 0) & (structured == 0)
    if turning & turn_counts(tl.load(of_row + _TURNED), here):
        tl.atomic_min(own + _TURNING, here)
    if tl.load(of_row + _LOCAL) == 0:
        # What the first row has read is committed.
        tl.store(own + _REFUSE_FROM, start)
        tl.store(own + _SEEN, tl.maximum(tl.load(own + _SEEN), tl.load(of_row + _FIRST_POS)))
        tl.store(own + _SLOT_TURNED, tl.load(of_row + _TURNED))
        width = LANES * (_STATE_FIELDS + RING)
        source = row_states + row.to(tl.int64) * width
        target = slot_states + slot * width
        _copy(target, source, width, BLOCK)
        if SCORES:
            source = row_scores + row.to(tl.int64) * SCORES
            _copy(slot_scores + slot * SCORES, source, SCORES, BLOCK)
