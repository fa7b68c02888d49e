"""A batch's masks and refusals, written at once: the same as row by row, into any tensor."""

import numpy as np
import pytest
import torch

from prism.steer.kernel import ANY_OTHER, VALID_ONES
from prism.steer.row import Step, is_likeliest
from prism.steer.state import Masks

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::FutureWarning")]

REQUESTS, SIZE = 9, 517
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def laid_out(values, dtype, layout):
    """Return ``values`` as a tensor of that type whose rows lie in memory as ``layout`` says."""
    wanted = torch.from_numpy(values).to(dtype)
    if layout == "strided":
        whole = torch.zeros((2 * REQUESTS, 3 * SIZE), dtype=dtype)
        view = whole[::2, 1 : 3 * SIZE : 3]
    elif layout == "transposed":
        view = torch.zeros((SIZE, REQUESTS), dtype=dtype).T
    else:
        view = torch.zeros((REQUESTS, SIZE), dtype=dtype)
    view.copy_(wanted)
    return view


def cases(rng):
    """Yield logits, the rows' places in them, and their masks: ties, empty rows, infinities."""
    for _ in range(25):
        values = rng.normal(size=(REQUESTS, SIZE)).round(1).astype(np.float32)  # with equal ones
        values[rng.random(values.shape) < 0.1] = -np.inf
        places = rng.permutation(REQUESTS)[: rng.integers(0, REQUESTS + 1)].astype(np.int64)
        rows, only = [], []
        for place in places.tolist():
            banned = rng.choice(SIZE, rng.choice([0, 1, 3, 200]), replace=False)
            if len(banned) and rng.random() < 0.3:
                banned[0] = values[place].argmax()
            if rng.random() < 0.1:
                values[place] = -np.inf
            rows.append(np.unique(banned).astype(np.int64))
            only.append(rng.choice(3, p=[0.6, 0.2, 0.2]))
        bounds = np.cumsum([0, *map(len, rows)]).astype(np.int64)
        ids = np.concatenate([*rows, np.zeros(0, np.int64)])
        yield values, places, Masks(ids, bounds, np.array(only, np.uint8))


@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_are_written_as_row_by_row(dtype, layout):
    from vllm_prism import edits

    written = left = within = 0
    for values, places, masks in cases(np.random.default_rng(3)):
        logits = laid_out(values, dtype, layout)
        expected = logits.float().clone()
        done = edits.mask(logits, places, masks)
        for i, place in enumerate(places.tolist()):
            row, banned = expected[place].numpy(), masks.row(i)
            if masks.only[i] != ANY_OTHER:
                # Within a character; on a device these rows are left to be done one by one.
                some = len(banned) > 0 and row[banned].max() > -np.inf
                assert done[i] == (some and masks.only[i] == VALID_ONES and dtype == torch.float32)
                if done[i]:
                    Step(None, banned[:0], banned).write(row)
                    within += 1
                continue
            likeliest = len(banned) > 0 and is_likeliest(row, banned[row[banned].argmax()])
            assert done[i] == (not likeliest)
            if not likeliest:
                Step(None, banned).write(row)
                written += len(banned)
            left += likeliest
        assert torch.equal(logits.float(), expected)
    assert written > 0
    assert left > 0
    assert (within > 0) == (dtype == torch.float32)


@pytest.mark.parametrize("layout", ["contiguous", "strided", "transposed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_refusals_are_written_as_row_by_row(dtype, layout):
    from vllm_prism import edits

    rng = np.random.default_rng(4)
    for values, places, _ in cases(rng):
        logits = laid_out(values, dtype, layout)
        expected = logits.float().clone()
        tokens = rng.integers(0, SIZE, len(places))
        edits.force(logits, places, tokens)
        for place, token in zip(places.tolist(), tokens.tolist(), strict=True):
            Step(token, np.zeros(0, np.int64)).write(expected[place].numpy())
        assert torch.equal(logits.float(), expected)


def test_what_lies_between_rows_is_not_touched():
    from vllm_prism import edits

    whole = torch.zeros((4, 64))
    edits.force(whole[:, :32], np.array([1, 2]), np.array([3, 4]))
    assert torch.isfinite(whole[:, 32:]).all()
    assert torch.isfinite(whole[[0, 3]]).all()
    assert torch.isfinite(whole[1:3, :32]).sum() == 2
