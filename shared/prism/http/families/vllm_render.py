"""vLLM's ``/render`` and ``/derender``: a request as the token ids that it comes to, and back.

A rendered request is the client's own text in another notation: it is judged as the request would
be, and a blocked one is an error, 400 with ``content_filter``. Ids that are turned back into an
answer are judged as that answer.
"""

from __future__ import annotations

from typing import Any

from prism.http import prompts
from prism.http.errors import BadRequest, ContentFiltered, UpstreamShape
from prism.http.families.openai_chat import CHAT, Chat
from prism.http.families.openai_completions import COMPLETIONS, Completions, is_id
from prism.http.family import Call, Family, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.sse import Event

_KEPT = (
    "request_id", "token_ids", "token_offsets", "model", "reasoning_ended",
    "reasoning_parser_kwargs", "output_mode", "stream", "stream_options", "priority",
)  # fmt: skip
_PARAMS = "sampling_params"


class Render:
    """One of the ``/render`` routes; ``family`` reads its requests."""

    def __init__(self, family: Family, path: str) -> None:
        self.name = f"render_{family.name}"
        self.paths = (path,)
        self._family = family

    def read(self, body: Json, reading: Reading) -> Call:
        """Read the request as the API does that it is for."""
        call = self._family.read(body, reading)
        # What is asked for is asked of another route, later: nothing is streamed or counted here.
        call.body, call.stream, call.choices = body, False, 1
        call.include_usage = call.usage_injected = False
        return call

    def refusal(self, call: Call, decision_id: str, message: str) -> Any:
        """Raise: a request in ids can't say that it is blocked."""
        raise ContentFiltered(message, param="messages" if "messages" in call.body else "prompt")

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Raise, as above."""
        raise ContentFiltered(message, param=None)

    def whole(self, call: Call, body: Any, judge: Judge) -> Any:
        """Return the rendered request, or a list of them."""
        return [_request(item) for item in body] if isinstance(body, list) else _request(body)

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Raise: these routes answer in one piece."""
        raise UpstreamShape("the engine streams what has to come whole", code="upstream_shape")


class DerenderChat(Chat):
    """``/v1/chat/completions/derender``."""

    name = "derender_chat"
    paths = ("/v1/chat/completions/derender",)

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request; the answer in it is judged when it can be read."""
        return _derender(body, [body.get("generate_response")], reading)


class DerenderCompletions(Completions):
    """``/v1/completions/derender``."""

    name = "derender_completions"
    paths = ("/v1/completions/derender",)

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request; the answers in it are judged when they can be read."""
        return _derender(body, body.get("generate_responses"), reading)


RENDERING: tuple[Family, ...] = (
    Render(CHAT, "/v1/chat/completions/render"),
    Render(COMPLETIONS, "/v1/completions/render"),
    DerenderChat(),
    DerenderCompletions(),
)


def _derender(body: Json, answers: Any, reading: Reading) -> Call:
    prompts.refuse_unsafe(body, reading.engine)
    if prompts.flag(body, "stream"):
        raise BadRequest(
            "'stream' is not available on a moderated server: pieces that are read each by itself "
            "can't be judged as one text",
            param="stream",
            code="not_moderated",
        )
    listed = answers if isinstance(answers, list) else []
    choices = [item.get("choices") if isinstance(item, dict) else None for item in listed]
    count = sum(len(rows) for rows in choices if isinstance(rows, list))
    if not count or count > reading.max_choices:
        raise BadRequest(
            f"there must be 1 to {reading.max_choices} choices to read",
            param="generate_response",
            code="out_of_range",
        )
    messages = prompts.context(body, frozenset())
    prompts.check_length(messages, reading.max_prompt_chars)
    return Call(body, messages, stream=False, choices=count, model=prompts.text(body, "model"))


def _request(body: Any) -> Json:
    ids = body.get("token_ids") if isinstance(body, dict) else None
    if not isinstance(ids, list) or not all(map(is_id, ids)):
        raise UpstreamShape("the engine rendered no token ids", code="upstream_shape")
    made: Json = {name: body[name] for name in _KEPT if name in body}
    params = body.get(_PARAMS)
    if isinstance(params, dict):
        own = ("extra_args",)
        made[_PARAMS] = {
            name: value
            for name, value in params.items()
            if not name.startswith("_") and name not in own
        }
    return made
