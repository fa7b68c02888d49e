"""A worker process that dies is reported, and nothing written before is lost."""

from __future__ import annotations

import multiprocessing

import pytest

from prism.assure.batch import BATCH, open_judge
from prism.assure.scan import ScanError, scan


def test_a_worker_that_dies_ends_the_run_with_advice(house):
    judge, _ = open_judge("house.yaml", None)
    lines = ((i, b'{"prompt": "what a nice day"}') for i in range(1, 20 * BATCH))
    results = scan(lines, judge, "house.yaml", None, 2)
    batch, first = next(results)
    assert (len(batch), len(first)) == (BATCH, BATCH)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(ScanError, match="run the command again to go on"):
        list(results)
