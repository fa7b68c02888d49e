"""A guard in vLLM's offline engine: for scans of many texts, which it batches by itself."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

from prism.classify.guard.types import (
    Ask,
    Completion,
    GuardError,
    GuardTimeout,
    GuardUnreachable,
)

_ENVIRONMENT = ("PRISM_CONFIG", "PRISM_POLICY")

TOP = 20
"""Log-probabilities asked for: the most that vLLM gives unless told otherwise."""


class VllmBackend:
    """An ``LLM`` of its own. It can't be interrupted: at the deadline the caller goes on.

    What comes while it still works on an answer nobody waits for waits in line, and fails at its
    own deadline: a guard that is too slow fails, it doesn't pile up.

    PRISM's token layer is in every vLLM engine of its environment. In this one it has nothing to
    do: it runs under a policy without rules, lest a text that is judged be refused by the judge.
    """

    def __init__(self, model: str, *, context: int = 8192, batch: int = 8, **engine: Any) -> None:
        """Load ``model``, a folder or a name that is in the local cache. Raises ``GuardError``.

        ``engine``: further arguments of ``vllm.LLM``. While it loads, the environment says another
        policy: load guards at start-up, not beside other work.
        """
        from vllm import LLM

        try:
            with _without_rules():
                self._llm = LLM(
                    model, max_model_len=context, max_num_seqs=batch, max_logprobs=TOP, **engine
                )
        except Exception as error:
            raise GuardError(
                f"vLLM can't load the guard {model}: {type(error).__name__}"
            ) from error
        # One thread: LLM.generate is not thread-safe.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prism-guard")

    def complete(self, asks: Sequence[Ask], until: float) -> list[Completion]:
        """Answer every ask, in order. Raises ``GuardError``."""
        left = until - time.monotonic()
        if left <= 0:
            raise _too_late()
        try:
            work = self._thread.submit(self._generate, list(asks), until)
        except RuntimeError as error:
            raise GuardUnreachable("the guard was closed") from error
        try:
            return work.result(timeout=left)
        except FutureTimeoutError:
            work.cancel()
            raise _too_late() from None
        except GuardError:
            raise
        except Exception as error:
            raise GuardUnreachable(f"vLLM failed: {type(error).__name__}") from error

    def close(self) -> None:
        """Stop taking questions; the engine goes when nothing refers to it."""
        self._thread.shutdown(cancel_futures=True)

    def _generate(self, asks: list[Ask], until: float) -> list[Completion]:
        from vllm import SamplingParams

        if time.monotonic() >= until:  # it waited in line
            raise _too_late()
        params = [
            SamplingParams(
                temperature=0,
                max_tokens=ask.max_tokens,
                logprobs=TOP if ask.answers else None,
                stop=list(ask.stop) or None,
                skip_special_tokens=not ask.stop,
            )
            for ask in asks
        ]
        outputs = self._llm.generate([ask.prompt for ask in asks], params, use_tqdm=False)
        return [_read(output.outputs[0]) for output in outputs]


@contextlib.contextmanager
def _without_rules() -> Iterator[None]:
    """Let the processes that start here find a policy without rules in their environment."""
    kept = {name: os.environ.pop(name) for name in _ENVIRONMENT if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="prism-guard-") as folder:
        policy = Path(folder) / "guard.yaml"
        policy.write_text("prism: 1\nid: guard\nrules: []\n", encoding="utf-8")
        os.environ["PRISM_POLICY"] = str(policy)
        try:
            yield
        finally:
            del os.environ["PRISM_POLICY"]
            os.environ.update(kept)


def _read(output: Any) -> Completion:
    if not output.logprobs:
        return Completion(output.text)
    top: dict[str, float] = {}
    for entry in output.logprobs[0].values():
        text = entry.decoded_token or ""
        top[text] = max(top.get(text, float("-inf")), float(entry.logprob))
    return Completion(output.text, top)


def _too_late() -> GuardTimeout:
    return GuardTimeout("the guard did not answer in time")
