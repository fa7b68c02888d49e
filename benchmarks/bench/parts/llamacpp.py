"""llama.cpp, in process: the bare model, the token layer, and everything, in turn.

Everything is what a server does for a request: the prompt judged by every tier of the policy, each
piece of the answer fed to the request's session, each token under the token layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench.inputs import blocks, words
from bench.rows import CPU, WALL, Row
from bench.settings import Case, Settings
from prism.moderator import Moderator
from prism.steer.watermark import Sampling, Watermark, WatermarkKey

TITLE = "llama.cpp: guarded against bare"
ENGINE = True
_ARMS = ("bare", "token layer", "everything")
_CONTEXT = 512


def cases(settings: Settings) -> list[Case]:
    """Return the comparison, and the watermark with the model's own logits."""
    return [{"of": "arms"}, {"of": "watermark"}]


def measure(settings: Settings, case: Case) -> Iterator[Row]:
    """Yield tokens per second and time to the first token of each arm, and their ratios."""
    yield from (_arms if case["of"] == "arms" else _watermark)(settings)


def _load(settings: Settings) -> Any:
    from llama_cpp import Llama

    return Llama(settings.model, n_ctx=_CONTEXT, seed=1, verbose=False)


def _arms(settings: Settings) -> Iterator[Row]:
    from llamacpp_prism import guard

    moderator = Moderator.from_policy(settings.policy)
    bare, guarded = _load(settings), guard(_load(settings), policy=moderator.policy)
    ways: dict[str, Callable[[str, int], float]] = {
        "bare": lambda prompt, tokens: _generate(bare, prompt, tokens, None),
        "token layer": lambda prompt, tokens: _generate(guarded, prompt, tokens, None),
        "everything": lambda prompt, tokens: _generate(guarded, prompt, tokens, moderator),
    }
    tokens, prompt = settings.pick(64, 8), words(60, skip=1000)
    taken: dict[str, list[tuple[float, float, float]]] = {arm: [] for arm in _ARMS}
    for number in range(settings.times(9) + 1):  # the first is for warming up
        for arm in _ARMS if number % 2 else reversed(_ARMS):
            wall, cpu = time.perf_counter(), time.process_time()
            first = ways[arm](prompt, tokens)
            if number:
                used = time.process_time() - cpu
                taken[arm].append((time.perf_counter() - wall, used, first - wall))
    at = {"tokens": tokens}
    for arm, values in taken.items():
        yield Row.of(
            "speed", "tokens/s", [tokens / v[0] for v in values], clock=WALL, arm=arm, at=at
        )
        yield Row.of("CPU of a token", "ms", [v[1] / tokens * 1e3 for v in values], arm=arm, at=at)
        yield Row.of("first token", "ms", [v[2] * 1e3 for v in values], clock=WALL, arm=arm, at=at)
    for arm in _ARMS[1:]:
        for place, clock in ((0, WALL), (1, CPU)):
            pairs = zip(taken["bare"], taken[arm], strict=True)
            ratios = [a[place] / b[place] for a, b in pairs]
            yield Row.of("speed against bare", "ratio", ratios, clock=clock, arm=arm, at=at)


def _generate(llama: Any, prompt: str, tokens: int, moderator: Moderator | None) -> float:
    """Generate ``tokens`` tokens; return when the first piece could go out."""
    llama.reset()
    session = None if moderator is None else moderator.session()
    if session is not None and session.check_prompt(prompt).blocked:
        raise SystemExit("the prompt is blocked: nothing to measure")
    # No end before the last token: both arms must say as many.
    bias = {str(llama.token_eos()): -100.0}
    begun, last = 0.0, ""
    for chunk in llama.create_completion(
        prompt, max_tokens=tokens, temperature=0.0, stream=True, logit_bias=bias
    ):
        (choice,) = chunk["choices"]
        text = choice["text"]
        if session is not None:
            released = session.feed(text)
            text = released.text
        if text and not begun:
            begun = time.perf_counter()
        last = choice["finish_reason"] or last
    if session is not None:
        session.finish()
    if last != "length" or (session is not None and session.blocked()):
        raise SystemExit(f"the answer ended early ({last}): nothing to measure")
    return begun or time.perf_counter()


def _watermark(settings: Settings) -> Iterator[Row]:
    """Yield what picking a token under the watermark costs, with logits as the model gives them."""
    llama = _load(settings)
    llama.eval(llama.tokenize(words(60, skip=1000).encode()))
    mark = Watermark(WatermarkKey(4242), Sampling())
    output: list[int] = []
    values = []
    for _ in range(settings.pick(96, 16)):
        logits = np.ctypeslib.as_array(llama._ctx.get_logits(), shape=(llama.n_vocab(),))
        used = time.process_time()
        token = mark.pick(logits, output)
        values.append((time.process_time() - used) * 1e6)
        output.append(token if token is not None else int(logits.argmax()))
        llama.eval([output[-1]])
    at = {"vocabulary": llama.n_vocab()}
    yield Row.of("watermark", "µs per token", blocks(values[8:], 4), at=at)
