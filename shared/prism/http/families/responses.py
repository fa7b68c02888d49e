"""OpenAI's Responses, as vLLM and llama-server serve them."""

from __future__ import annotations

from prism.http.dialect import Bare
from prism.http.errors import dumps
from prism.http.families import responses_prompts
from prism.http.families.choices import FILTERED
from prism.http.families.responses_stream import ResponseStream, error_fields
from prism.http.families.responses_writer import Writer, count, frame, message_item
from prism.http.family import Call, Json, Reading, StreamFilter
from prism.http.judge import Judge
from prism.http.sse import Event


class ResponsesDialect(Bare):
    """Named events, no ``[DONE]``."""

    def broken(self, body: Json) -> list[Event]:
        """Return how a stream says that it ends in an error."""
        shown = {"type": "error", "sequence_number": 0, **error_fields(body)}
        return [Event(dumps(shown).decode(), "error")]


class Responses:
    """``/v1/responses``."""

    name = "responses"
    paths = ("/v1/responses",)
    dialect = ResponsesDialect()

    def read(self, body: Json, reading: Reading) -> Call:
        """Check the request and take its text out."""
        return responses_prompts.read(body, reading)

    def refusal(self, call: Call, decision_id: str, message: str) -> Json:
        """Return a normal answer that says ``message``."""
        return {
            **frame(call, {"id": f"resp_{decision_id}"}),
            "status": "incomplete",
            "incomplete_details": {"reason": FILTERED},
            "output": [message_item(f"msg_{decision_id}", message)],
            "usage": count(0, 0),
        }

    def refusal_stream(self, call: Call, decision_id: str, message: str) -> list[Event]:
        """Return the same as a stream."""
        final = self.refusal(call, decision_id, message)
        begun = {**frame(call, final), "status": "in_progress", "output": []}
        out = Writer()
        out.emit("response.created", response=begun)
        out.emit("response.in_progress", response=begun)
        out.say(final["output"][0])
        out.emit("response.incomplete", last=True, response=final)
        return out.take()

    def whole(self, call: Call, body: Json, judge: Judge) -> Json:
        """Judge an answer in one piece."""
        return ResponseStream(call, judge).whole(body)

    def stream(self, call: Call, judge: Judge) -> StreamFilter:
        """Judge an answer in pieces."""
        return ResponseStream(call, judge)


RESPONSES = Responses()
