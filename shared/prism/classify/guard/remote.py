"""A guard behind an OpenAI-compatible server: ``/v1/completions`` with log-probabilities.

Completions, not chat: the format has rendered the template, and the server's own chat template
would wrap it into a second one. Two shapes of ``logprobs`` are read: OpenAI's (vLLM,
llama-cpp-python) and llama-server's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any

import httpx

from prism.classify.guard.types import (
    Ask,
    Completion,
    GuardError,
    GuardTimeout,
    GuardUnreachable,
    GuardUnreadable,
)

TOP = 20
"""Log-probabilities asked for: the most that vLLM gives unless told otherwise."""

_MOST_BYTES = 4_000_000
_KEEP_ALIVE = 4.0  # uvicorn and llama-server close idle connections after 5 s; ours go first
_HINTS = {
    400: "is the text too long for it, or does it lack log-probabilities "
    "(llama_cpp.server needs --logits_all true)?",
    401: "is `api_key_env` right?",
    403: "is `api_key_env` right?",
    404: "is `url` that of its /v1, and `model` the name it serves?",
}


class OpenAIBackend:
    """Asks one question a request, ``batch`` of them at a time over kept connections.

    A server that batches does so over concurrent requests. Every request ends at the deadline,
    however slowly its answer trickles in.
    """

    def __init__(self, url: str, model: str, *, api_key: str | None = None, batch: int = 8) -> None:
        self._url = completions_url(url)
        self._model = model
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(
            headers=headers,
            limits=httpx.Limits(
                max_connections=batch,
                max_keepalive_connections=batch,
                keepalive_expiry=_KEEP_ALIVE,
            ),
            trust_env=False,
        )
        self._threads = ThreadPoolExecutor(batch, thread_name_prefix="prism-guard")

    def complete(self, asks: Sequence[Ask], until: float) -> list[Completion]:
        """Answer every ask, in order. Raises ``GuardError``."""
        if len(asks) == 1:
            return [self._ask(asks[0], until)]
        futures: list[Future[Completion]] = []
        try:
            futures = [self._threads.submit(self._ask, ask, until) for ask in asks]
            # What is still queued at the deadline fails by itself; what runs ends with it.
            wait(futures, timeout=max(0.0, until - time.monotonic()), return_when=FIRST_EXCEPTION)
            failed = next((f for f in futures if f.done() and f.exception()), None)
            if failed is not None:
                failed.result()
            if not all(future.done() for future in futures):
                raise _too_late()
            return [future.result() for future in futures]
        except RuntimeError as error:  # the pool was shut down
            raise GuardUnreachable("the guard was closed") from error
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Close the connections; requests under way end first."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _ask(self, ask: Ask, until: float) -> Completion:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "temperature": 0,
        }
        if ask.answers:
            body["logprobs"] = TOP
        if ask.stop:
            # The marks that end a channel are control tokens; vLLM hides them unless asked not to.
            body |= {"stop": list(ask.stop), "skip_special_tokens": False}
        try:
            return _read(self._post(body, until), wants_top=bool(ask.answers))
        except httpx.RemoteProtocolError:
            # The server closed a kept connection just as it was used again: once more, on another.
            try:
                return _read(self._post(body, until), wants_top=bool(ask.answers))
            except httpx.RemoteProtocolError as error:
                raise GuardUnreachable(f"{self._url} broke off: {type(error).__name__}") from None

    def _post(self, body: Mapping[str, Any], until: float) -> bytes:
        left = until - time.monotonic()
        if left <= 0:
            raise _too_late()
        try:
            with self._client.stream("POST", self._url, json=body, timeout=left) as answer:
                raw = bytearray()
                for piece in answer.iter_bytes():
                    raw += piece
                    if time.monotonic() >= until:
                        raise _too_late()
                    if len(raw) > _MOST_BYTES:
                        raise GuardUnreadable(f"{self._url} answers with more than 4 MB")
                if answer.status_code != 200:
                    # Never its message: it may quote the text.
                    hint = _HINTS.get(answer.status_code, "see its log")
                    raise GuardUnreachable(
                        f"{self._url} answered with status {answer.status_code}: {hint}"
                    )
                return bytes(raw)
        except httpx.TimeoutException:
            raise _too_late() from None
        except httpx.RemoteProtocolError:
            raise
        except (httpx.HTTPError, RuntimeError) as error:
            raise GuardUnreachable(
                f"{self._url} can't be reached: {type(error).__name__}"
            ) from None


def completions_url(url: str) -> str:
    """Return the address of completions for a server's address, with or without ``/v1``."""
    base = url.rstrip("/").removesuffix("/completions").removesuffix("/v1")
    return f"{base}/v1/completions"


def _read(raw: bytes, *, wants_top: bool) -> Completion:
    try:
        choice = json.loads(raw)["choices"][0]
        text = choice["text"]
        if not isinstance(text, str):
            raise TypeError
        return Completion(text, _top(choice.get("logprobs")) if wants_top else None)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise GuardUnreadable("the guard's server does not answer like /v1/completions") from None


def _top(logprobs: Any) -> Mapping[str, float] | None:
    """Return the first token's alternatives: OpenAI's shape, or llama-server's."""
    if not logprobs:
        return None
    if "content" in logprobs:
        first = logprobs["content"][0]
        return _floats((c["token"], c["logprob"]) for c in first["top_logprobs"])
    tops = logprobs.get("top_logprobs")
    return _floats(tops[0].items()) if tops else None


def _floats(pairs: Any) -> dict[str, float]:
    return {str(token): float(value) for token, value in pairs}


def _too_late() -> GuardError:
    return GuardTimeout("the guard did not answer in time")
