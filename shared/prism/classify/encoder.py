"""The encoder: a small transformer that reads what a text means, a few milliseconds a text.

``data/encoder.onnx`` (int8, made by ``training/``) gives one logit for each thing that the training
told apart: the categories, and notions such as abusive tone or harmful intent. ``data/encoder.npz``
combines them with the sketch's logits into the calibrated probabilities of the categories: linear,
non-negative in what speaks for a category. Text that the encoder's vocabulary does not know (it
learnt English) hands the word to the sketch, in proportion.

A text of more tokens than a window is read in overlapping windows, of which the highest logit
counts. Windows run one at a time: int8 scales are chosen per call, so batches would make a text's
score depend on its neighbours.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from prism.classify.combination import combine
from prism.classify.sketch import FloatArray, Sketch
from prism.types import Stage

WINDOW = 128
"""Tokens of a window, markers included."""
OVERLAP = 32
"""Tokens that a window shares with the one before."""
CONTEXT = 32
"""Last tokens of the prompt that stand before a response."""
_CLS, _SEP = 101, 102
_LATIN_END = "\u0250"
_SEEN = 1500  # characters that tell whether a text is foreign
_FEW = 8  # tokens of words below which nothing can be told
_FILES = ("encoder.onnx", "encoder.tokenizer.json", "encoder.npz")


class EncoderError(ValueError):
    """The encoder's files are damaged or don't belong together."""


@dataclass(frozen=True, slots=True)
class _Combination:
    """``weights`` float32 [stage, category, feature], ``biases`` float32 [stage, category].

    Features: the encoder's columns, the highest of its hazards, the sketch's categories.
    """

    weights: FloatArray
    biases: FloatArray
    hazards: NDArray[np.int64]


class Encoder:
    """Scores of prompts, and of responses given their prompts. Thread-safe."""

    def __init__(self, model: bytes, tokenizer: bytes, combination: bytes, sketch: Sketch) -> None:
        """Read the three files' bytes. Raises ``EncoderError``."""
        import onnxruntime  # slow to import: only a process that runs the encoder pays

        from prism.classify.wordpiece import WordPiece

        try:
            with np.load(io.BytesIO(combination), allow_pickle=False) as arrays:
                self._combination = _Combination(
                    arrays["weights"], arrays["biases"], arrays["hazards"]
                )
                names = bytes(arrays["categories"]).decode("ascii").split()
                columns = bytes(arrays["columns"]).decode("ascii").split()
        except (KeyError, ValueError, OSError, EOFError) as error:
            raise EncoderError(f"this is no combination of an encoder: {error}") from None
        shape = (2, len(names), len(columns) + 1 + len(sketch.categories))
        if self._combination.weights.shape != shape:
            raise EncoderError("the combination belongs to another encoder or sketch")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = WordPiece(tokenizer)
        self._sketch = sketch
        self.categories: tuple[str, ...] = tuple(names)
        """Column order of every scores array; has ``harm`` and ``inj``."""
        self.columns: tuple[str, ...] = tuple(columns)
        """What ``logits`` returns: the model's own outputs, categories and notions."""
        digest = hashlib.sha256()
        for part in (model, tokenizer, combination, bytes.fromhex(sketch.digest)):
            digest.update(hashlib.sha256(part).digest())
        self.digest: str = digest.hexdigest()
        """SHA-256 over the files and the sketch's, hex."""

    @classmethod
    def shipped(cls) -> Encoder:
        """Return the encoder that the package ships, loaded once per process."""
        return _shipped()

    def prompts(self, texts: Sequence[str]) -> FloatArray:
        """Return calibrated probabilities of prompts, float32 ``[n, categories]``."""
        out = np.empty((len(texts), len(self.categories)), np.float32)
        for index, text in enumerate(texts):
            out[index] = self._judge(None, text)
        return out

    def responses(self, pairs: Sequence[tuple[str | None, str]]) -> FloatArray:
        """Return those of responses, each given its prompt (None: unknown), ``[n, categories]``."""
        out = np.empty((len(pairs), len(self.categories)), np.float32)
        for index, (prompt, response) in enumerate(pairs):
            out[index] = self._judge(prompt or "", response)
        return out

    def logits(self, prompt: str | None, text: str) -> FloatArray:
        """Return the highest logit over all windows, float32 ``[columns]``.

        ``prompt`` None reads ``text`` as a prompt, otherwise as the response to it.
        """
        return self._highest(self.windows(prompt, text))

    def _judge(self, prompt: str | None, text: str) -> FloatArray:
        ids = self._tokenizer.ids(text)
        logits = self._highest(self._windows(prompt, ids))
        # What was read once tells the language too.
        foreign = self._foreign_share(text, ids if len(text) <= _SEEN else None)
        stage = Stage.PROMPT if prompt is None else Stage.OUTPUT
        return self._combined(logits, stage, text, foreign)

    def _highest(
        self, windows: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
    ) -> FloatArray:
        best = np.full(len(self.columns), -np.inf, np.float32)
        for ids, types in windows:
            (found,) = self._session.run(None, {"ids": ids[None], "types": types[None]})
            np.maximum(best, found[0], out=best)
        return best

    def windows(
        self, prompt: str | None, text: str
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return (ids, types) of each window, int64 ``[≤ WINDOW]``; at least one."""
        return self._windows(prompt, self._tokenizer.ids(text))

    def _windows(
        self, prompt: str | None, ids: list[int]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        head = [_CLS]
        if prompt is not None:
            head += [*self._tokenizer.ids(prompt[-8 * WINDOW :])[-CONTEXT:], _SEP]
        room = WINDOW - len(head) - 1
        out = []
        begin = 0
        while True:
            # The last window reaches back rather than being short of context.
            at = begin if begin + room < len(ids) else max(len(ids) - room, 0)
            window = [*head, *ids[at : at + room], _SEP]
            types = np.zeros(len(window), np.int64)
            if prompt is not None:
                types[len(head) :] = 1
            out.append((np.array(window, np.int64), types))
            if at + room >= len(ids):
                return out
            begin = at + room - OVERLAP

    def foreign_share(self, text: str) -> float:
        """Return how far the encoder's word is to be replaced by the sketch's, 0 to 1.

        What it never learnt shows in letters outside the Latin alphabets (from a tenth of all on,
        wholly from four tenths) and in words that its vocabulary knows only in pieces (pieces that
        go on with a word: from 30 % of the tokens on, wholly from 50 %; English has 4 %).
        """
        return self._foreign_share(text, None)

    def _foreign_share(self, text: str, ids: list[int] | None) -> float:
        seen = text[:_SEEN]
        other = 0.0
        if not self._tokenizer.plain(seen):
            letters = [char for char in seen if char.isalpha()]
            foreign = sum(char >= _LATIN_END for char in letters)
            other = _ramp(foreign / len(letters), 0.1, 0.4) if letters else 0.0
            if other == 1.0:
                return other
        if ids is None:
            ids = self._tokenizer.ids(seen)
        at = np.array(ids, np.int64)
        words = int(np.count_nonzero(self._tokenizer.lettered[at]))
        if words < _FEW:
            return other
        pieces = int(np.count_nonzero(self._tokenizer.continues[at]))
        return max(other, _ramp(pieces / words, 0.3, 0.5))

    def combined(self, logits: FloatArray, stage: Stage, text: str) -> FloatArray:
        """Return the categories' probabilities from what ``logits`` returned of ``text``."""
        return self._combined(logits, stage, text, self.foreign_share(text))

    def _combined(self, logits: FloatArray, stage: Stage, text: str, foreign: float) -> FloatArray:
        at = 0 if stage is Stage.PROMPT else 1
        parts = self._combination
        found: FloatArray = combine(
            logits,
            parts.hazards,
            self._sketch.logits(text, stage),
            parts.weights[at],
            parts.biases[at],
            foreign,
        )
        return found


def _ramp(value: float, begin: float, end: float) -> float:
    return min(max((value - begin) / (end - begin), 0.0), 1.0)


@cache
def _shipped() -> Encoder:
    folder = files("prism.classify") / "data"
    model, tokenizer, combination = ((folder / name).read_bytes() for name in _FILES)
    return Encoder(model, tokenizer, combination, Sketch.shipped())
