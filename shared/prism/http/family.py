"""What an API family has to know: how to read a request, and how to let an answer out.

A family is one module with one object that fits :class:`Family`. It never decides anything; it
carries text to a :class:`~prism.http.judge.Judge` and puts what comes back where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from prism.http.judge import Judge
from prism.http.sse import Event

Json = dict[str, Any]


class Detokenise(Protocol):
    """Turns token ids into text, in any thread. Raises on ids that the model doesn't know."""

    def __call__(self, ids: Sequence[int], *, special: bool = True) -> str:
        """Return the text; without special tokens (end marks, turns) if ``special`` is false."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """What the operator and the engine's adapter allow a request to ask for."""

    max_prompt_chars: int
    max_choices: int
    engine: str
    detokenise: Detokenise | None = None


@dataclass(slots=True)
class Call:
    """A request, as far as moderation is concerned."""

    body: Json  # what the engine gets; never what the client sent byte for byte
    messages: list[dict[str, str]]  # what p(x) judges
    stream: bool
    choices: int
    model: str
    include_usage: bool = False
    usage_injected: bool = False  # asked of the engine by us: taken out of the chunks again
    stop: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()  # kinds of content that no tier here can read
    previous: str | None = None  # the stored response that a conversation goes on from
    keep: Callable[[Json], None] | None = None  # told of a response that went out, to store it
    wanted: tuple[str, ...] | None = None  # fields of the answer, where the API lets one choose
    speaks: Family | None = None  # on routes that take several APIs: the one of this request
    read_ids: Detokenise | None = None  # on routes that answer in token ids

    @property
    def chars(self) -> int:
        """Length of all text that p(x) judges."""
        return sum(len(message["content"]) for message in self.messages)


class StreamFilter(Protocol):
    """One answer on its way out, event by event."""

    @property
    def done(self) -> bool:
        """Whether nothing more will be let out, so the engine may as well stop."""
        ...

    def feed(self, event: Event) -> list[Event]:
        """Take one event of the engine and return those that may go to the client now."""
        ...

    def close(self) -> list[Event]:
        """The engine's stream is over, properly or not; return what may still go out."""
        ...


class Family(Protocol):
    """One API family.

    How it frames streams and errors is its ``dialect``, if not OpenAI's. What its requests are
    written in is its ``codec``, if not JSON.
    """

    @property
    def name(self) -> str:
        """Short name, used in metrics."""
        ...

    @property
    def paths(self) -> tuple[str, ...]:
        """The routes it covers, exactly as the engine's router matches them."""
        ...

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out. Raises :class:`~prism.http.errors.HttpError`."""
        ...

    def refusal(self, call: Call, decision_id: str, message: str) -> Any:
        """Return the API's normal answer, saying ``message`` and nothing else.

        Raises :class:`~prism.http.errors.ContentFiltered` where its answers can't say anything.
        """
        ...

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return the same as a stream, its end mark included."""
        ...

    def whole(self, call: Call, body: Any, judge: Judge) -> Any:
        """Return what may go out of an answer that came in one piece, as any JSON value."""
        ...

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Return a filter for an answer that comes in pieces."""
        ...
