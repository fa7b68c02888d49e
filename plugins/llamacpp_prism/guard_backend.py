"""A second llama.cpp model in this process, to judge what the first one reads and writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import Llama

from llamacpp_prism.vocabulary import texts_of
from prism.classify.guard.types import (
    Ask,
    Completion,
    GuardError,
    GuardTimeout,
    GuardUnreachable,
)

TOP = 64
"""Next tokens that are looked at; what is rarer is no answer."""


class LlamaCppBackend:
    """One model, one question at a time, its context kept while questions begin alike.

    It is a plain ``Llama``: no policy is applied to what a judge says. Logits are read directly;
    the model need not be loaded with ``logits_all``.
    """

    def __init__(
        self, model: str, *, context: int = 8192, threads: int | None = None, gpu_layers: int = 0
    ) -> None:
        """Load ``model``, a GGUF file. Raises ``GuardError``."""
        try:
            self._llama = Llama(
                model,
                n_ctx=context,
                n_threads=threads,
                n_threads_batch=threads,
                n_gpu_layers=gpu_layers,
                verbose=False,
            )
        except (ValueError, OSError, RuntimeError, AssertionError) as error:
            raise GuardError(f"llama.cpp can't load the guard {model}: {error}") from error
        self._lock = threading.Lock()

    def complete(self, asks: Sequence[Ask], until: float) -> list[Completion]:
        """Answer every ask, in order. Raises ``GuardError``."""
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise _too_late()
        try:
            return [self._answer(ask, until) for ask in asks]
        except GuardError:
            raise
        except Exception as error:
            self._llama.reset()
            raise GuardUnreachable(f"llama.cpp failed: {type(error).__name__}") from error
        finally:
            self._lock.release()

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            self._llama.close()

    def _answer(self, ask: Ask, until: float) -> Completion:
        llama = self._llama
        model = llama._model
        tokens = llama.tokenize(ask.prompt.encode(), add_bos=model.add_bos_token(), special=True)
        if len(tokens) + ask.max_tokens > llama.n_ctx():
            raise GuardUnreachable(
                f"the guard's context is {llama.n_ctx()} tokens, the question has {len(tokens)}: "
                "raise `context` or lower `window`"
            )
        self._read(tokens, until)
        if ask.answers:
            return self._top()
        return Completion(self._write(ask, until))

    def _read(self, tokens: Sequence[int], until: float) -> None:
        """Put ``tokens`` into the context, from where they differ from what it holds."""
        llama = self._llama
        held = llama.input_ids[: llama.n_tokens].tolist()
        same = 0
        # The last one is always read anew: only what was just read has logits.
        for old, new in zip(held, tokens[:-1], strict=False):
            if old != new:
                break
            same += 1
        if same and llama._ctx.kv_cache_seq_rm(-1, same, -1):
            llama.n_tokens = same
        else:
            same = 0
            llama.reset()
        for start in range(same, len(tokens), llama.n_batch):
            if time.monotonic() >= until:
                raise _too_late()
            llama.eval(tokens[start : start + llama.n_batch])

    def _logits(self) -> Any:
        """Return the last token's logits, float32 [vocabulary]: a view, valid until the next."""
        pointer = llama_cpp.llama_get_logits_ith(self._llama._ctx.ctx, -1)
        return np.ctypeslib.as_array(pointer, shape=(self._llama.n_vocab(),))

    def _top(self) -> Completion:
        logits = self._logits()
        best = np.argpartition(logits, -TOP)[-TOP:]
        best = best[np.argsort(logits[best])[::-1]]
        highest = float(logits[best[0]])
        norm = highest + float(np.log(np.sum(np.exp(logits - highest, dtype=np.float64))))
        top: dict[str, float] = {}
        for token, raw in zip(best, texts_of(self._llama._model, best), strict=True):
            text = raw.decode("utf-8", "replace")
            value = float(logits[token]) - norm
            top[text] = float(np.logaddexp(top[text], value)) if text in top else value
        return Completion(next(iter(top)), top)

    def _write(self, ask: Ask, until: float) -> str:
        llama, model = self._llama, self._llama._model
        raw = b""
        for _ in range(ask.max_tokens):
            if time.monotonic() >= until:
                raise _too_late()
            token = int(np.argmax(self._logits()))
            if llama_cpp.llama_vocab_is_eog(model.vocab, token):
                break
            raw += texts_of(model, [token], special=True)[0]
            ends = [at for at in (raw.find(stop.encode()) for stop in ask.stop) if at >= 0]
            if ends:
                raw = raw[: min(ends)]
                break
            llama.eval([token])
        return raw.decode("utf-8", "replace")


def _too_late() -> GuardTimeout:
    return GuardTimeout("the guard did not answer in time")
