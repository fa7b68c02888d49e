"""What a step writes into the logits of a whole batch at once, wherever and whatever they are.

On the CPU, float32 (what vLLM samples from): compiled loops over the tensor's own memory. Any
other tensor: all places in one buffer, which goes to the device in one copy, and torch's indexed
writes; the host waits once, to be told which rows want what is banned.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from prism.steer import edit
from prism.steer.kernel import ANY_OTHER
from prism.steer.state import Masks


def mask(logits: torch.Tensor, places: NDArray[np.int64], masks: Masks) -> NDArray[np.bool_]:
    """Mask the rows at ``places`` in which some token is likelier than every banned one.

    ``logits`` ``[requests, vocabulary]``, edited in place. Return where nothing is left to be done,
    ``[rows]``; where a banned token is the likeliest, or equals it, nothing was written.
    """
    done = np.ones(len(places), np.bool_)
    if not len(masks.ids) and not masks.only.any():
        return done
    if _on_host(logits):
        edit.mask(logits.numpy(), places, masks.ids, masks.bounds, masks.only, done)
        return done
    sizes = np.diff(masks.bounds)
    done[masks.only != ANY_OTHER] = False  # rare: one by one
    some = np.flatnonzero((sizes > 0) & done)
    if not len(some):
        return done
    banned = masks.ids[np.repeat(done, sizes)]
    owner = np.repeat(np.arange(len(some)), sizes[some])
    at, ids, of, lines = _moved(logits.device, places[some][owner], banned, owner, places[some])
    best = torch.full((len(some),), -torch.inf, device=logits.device)
    best.scatter_reduce_(0, of, logits[at, ids].float(), "amax")
    usual = (logits.amax(-1).float()[lines] > best).cpu().numpy()
    if not usual.all():
        (kept,) = _moved(logits.device, np.flatnonzero(usual[owner]))
        at, ids = at[kept], ids[kept]
    logits[at, ids] = -torch.inf
    done[some] = usual
    return done


def force(logits: torch.Tensor, places: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
    """Leave each of the rows at ``places`` nothing but its one of ``tokens``, in place."""
    if _on_host(logits):
        edit.force(logits.numpy(), places, tokens)
        return
    rows, chosen = _moved(logits.device, places, tokens)
    logits.index_fill_(0, rows, -torch.inf)
    logits[rows, chosen] = 0.0


def _on_host(logits: torch.Tensor) -> bool:
    return bool(logits.device.type == "cpu" and logits.dtype == torch.float32)


def _moved(device: torch.device, *arrays: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
    """Return arrays of numbers on ``device``, by one copy that the host doesn't wait for."""
    joined = torch.from_numpy(np.concatenate(arrays))
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    return tuple(joined.to(device).split([len(array) for array in arrays]))
