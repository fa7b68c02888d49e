"""The V2 runner with Triton: the host's automata walked on the device, and the logits masked there.

See ``prism.steer.arena`` for the arrays and ``vllm_prism.steps`` for what a step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prism.steer.arena import LANES, Arena
from prism.steer.guard import TokenGuard
from prism.steer.score_arena import ScoreArena
from prism.steer.state import State, States
from vllm_prism import fields as f
from vllm_prism import scoring, steps, wellformed

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROGRAMS = 1024
"""Programs that try candidates: enough to fill a device, few enough that their rings stay small."""
TRIED = 8
"""Candidates at once in a program: with their views, one per thread of a warp."""


class Walk:
    """Slots and rows on a device, under guards over one vocabulary."""

    def __init__(
        self,
        guards: Sequence[TokenGuard],
        eos: int,
        slots: int,
        speculative_tokens: int,
        device: torch.device,
        tried: int = TRIED,
    ) -> None:
        """``eos``: what ends a refusal. ``tried``: candidates at once in a program."""
        self.arena = arena = Arena.of(guards)
        self.guards = list(guards)
        self._most = speculative_tokens + 1
        self._tried = tried
        self._eos = eos
        rows = slots * self._most

        def put(array: NDArray[Any]) -> torch.Tensor:
            # Torch takes no array that is read only.
            own = array if array.flags.writeable else array.copy()
            return torch.from_numpy(np.ascontiguousarray(own)).to(device)

        self._data, self._codes, self._tokens = map(put, (arena.data, arena.codes, arena.tokens))
        self._views, self._policies = put(arena.views), put(arena.policies)
        self._common = put(arena.common)
        self._known = len(arena.tokens)
        self._follows = put(arena.follows.reshape(-1))
        self._slots = torch.zeros((slots, f.SLOT_FIELDS), dtype=torch.int32, device=device)
        self._rows = torch.zeros((rows, f.ROW_FIELDS), dtype=torch.int32, device=device)
        self._slot_states = torch.zeros((slots, arena.width), dtype=torch.int64, device=device)
        self._programs = min(PROGRAMS, rows * steps.SOURCES)
        scratch = self._programs * tried * LANES * arena.ring
        self._scratch = rows * arena.width
        self._row_states = torch.zeros(self._scratch + scratch, dtype=torch.int64, device=device)
        self._tops = torch.zeros((rows, 2), dtype=torch.int64, device=device)
        pairs = [(g.refusal(None, inside=False), g.refusal(None, inside=True)) for g in guards]
        self._longest = longest = max(len(ids) for pair in pairs for ids in pair) + 1
        self._refusals = put(
            np.array(
                [[[*ids, *[eos] * (longest - len(ids))] for ids in pair] for pair in pairs],
                np.int32,
            )
        )
        self._listed = bool(arena.policies[:, 2::3].any())
        self._scores = scores = ScoreArena.of(guards)
        """``None`` where no policy watches a score."""
        self._score_width = 0 if scores is None else scores.width
        shape = (slots, self._score_width)
        self._slot_scores = torch.zeros(shape, dtype=torch.int64, device=device)
        shape = (rows, self._score_width)
        self._row_scores = torch.zeros(shape, dtype=torch.int64, device=device)
        if scores is not None:
            self._spelled, self._offsets = put(scores.data), put(scores.offsets)
            self._embeddings, self._heads = put(scores.embeddings), put(scores.heads)
            self._biases, self._bounds = put(scores.biases), put(scores.bounds)
            self._watched = put(scores.watched)

    @property
    def memory(self) -> int:
        """Bytes on the device."""
        return sum(
            t.numel() * t.element_size() for t in vars(self).values() if isinstance(t, torch.Tensor)
        )

    def start(self, policy: int, output: Sequence[int]) -> NDArray[np.int64]:
        """Return the state behind ``output`` under guard ``policy``, as :meth:`state` does."""
        guard = self.guards[policy]
        state = State(guard.output, States(guard.output, 1, guard.scores))
        ids = np.asarray(output, np.int64)
        ids = ids[(ids >= 0) & (ids < guard.vocabulary.size)]
        state.feed(guard.vocabulary, ids)
        state.feed_scores(ids)
        return self.state(state)

    def state(self, state: State) -> NDArray[np.int64]:
        """Return where a host's ``state`` stands in phrases, then in scores, ``[width]``."""
        phrases = self.arena.state(state)
        if self._scores is None:
            return phrases
        return np.concatenate([phrases, self._scores.state(state.states.scores, state.slot)])

    def put(self, slots: Sequence[int], fields: NDArray[Any], states: NDArray[np.int64]) -> None:
        """Write slots: ``fields`` ``[n, SLOT_FIELDS]``, ``states`` ``[n, width]``."""
        numbers = np.concatenate(
            [np.array(slots)[:, None], fields.astype(np.int64), states], axis=1, dtype=np.int64
        )
        new = torch.from_numpy(numbers)
        device = self._slots.device
        if device.type != "cpu":
            new = new.pin_memory().to(device, non_blocking=True)
        parts = (1, f.SLOT_FIELDS, self.arena.width, self._score_width)
        at, own, phrases, scores = new.split_with_sizes(parts, 1)
        at = at[:, 0]
        self._slots[at] = own.int()
        self._slot_states[at] = phrases
        self._slot_scores[at] = scores

    def warm_up(self, columns: int, ids: torch.Tensor) -> None:
        """Compile for logits of ``columns``, before there are slots."""
        device = self._slots.device
        none = torch.zeros(1, dtype=torch.int32, device=device)
        logits = torch.zeros((1, columns), dtype=torch.float32, device=device)
        self.step(logits, ids, none, none, none.long(), none)
        self._slots.zero_()
        self._slot_states.zero_()
        self._slot_scores.zero_()

    def step(
        self,
        logits: torch.Tensor,
        ids: torch.Tensor,
        mapping: torch.Tensor,
        local_pos: torch.Tensor,
        pos: torch.Tensor,
        input_ids: torch.Tensor,
    ) -> None:
        """Mask and force, in place; ``logits`` is float32 ``[rows, columns]``."""
        rows, columns = logits.shape
        ring = self.arena.ring
        shape = {"RING": ring, "LANES": LANES, "num_warps": 1}
        steps.read_rows[(rows,)](
            self._data, self._views, self._policies, self._common, self._codes, self._tokens,
            self._follows, self._known, self._slots, self._slot_states, self._rows,
            self._row_states, self._tops,
            ids, ids.stride(0), mapping, local_pos, pos, input_ids, self._most,
            CHUNK=256, **shape,
        )  # fmt: skip
        scores = self._scores
        if scores is not None:
            scoring.score_rows[(rows,)](
                self._data, self._common, self._spelled, self._offsets, self._known,
                self._embeddings, self._heads, self._biases, self._bounds, self._watched,
                self._slots, self._slot_scores, self._rows, self._row_scores,
                ids, ids.stride(0), input_ids, self._most,
                WIDTH=scores.width, DIMENSIONS=scores.dimensions, WATCHED=scores.most,
                num_warps=1,
            )  # fmt: skip
        wellformed.keep_valid[(rows, 4)](
            logits, logits.stride(0), columns, self._follows, self._known, self._rows,
            self._row_states, RING=ring, LANES=LANES, BLOCK=2048, num_warps=4,
        )  # fmt: skip
        steps.try_tokens[(min(self._programs, rows * steps.SOURCES),)](
            logits, logits.stride(0), self._data, self._views, self._common, self._codes,
            self._tokens, self._follows, self._known, self._slots, self._rows, self._row_states,
            self._scratch, self._tops, rows, TRIED=self._tried, **shape,
        )  # fmt: skip
        if self._listed:
            steps.mask_lists[(rows, 4)](
                logits, logits.stride(0), self._data, self._policies, self._rows,
                self._row_states, self._tops, BLOCK=128, **shape,
            )  # fmt: skip
        steps.decide[(rows,)](
            logits, logits.stride(0), columns, self._slots, self._slot_states, self._rows,
            self._row_states, self._tops, self._refusals, self._longest, self._eos,
            self._slot_scores, self._row_scores,
            RING=ring, LANES=LANES, BLOCK=2048, SCORES=self._score_width, num_warps=4,
        )  # fmt: skip
