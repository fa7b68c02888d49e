"""Responses that clients may come back to: what was released, and the conversation so far.

An engine's own store knows no tenants and holds what nobody judged, so it is never asked for a
response. What is given back is what went out, from this process's memory; what a conversation goes
on from is found here first, or the request is refused.
"""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

from prism.http.errors import BadRequest, NotFound
from prism.http.families.choices import FILTERED
from prism.http.families.responses_items import texts_of
from prism.http.families.responses_writer import message_item
from prism.http.family import Call, Json
from prism.http.prompts import check_length, strings
from prism.http.routes import STORED
from prism.http.tenancy import Guest

MAX_PER_TENANT = 1_000
MAX_CHARS = 64_000_000


@dataclass(frozen=True, slots=True)
class _Record:
    tenant: str
    messages: list[dict[str, str]]  # the conversation, as it was judged
    asked: Any
    response: Json
    chars: int


class Stored:
    """The responses of one server. A tenant's oldest is given up first, of whoever holds most."""

    def __init__(self, per_tenant: int = MAX_PER_TENANT, chars: int = MAX_CHARS) -> None:
        self._per_tenant = per_tenant
        self._most = chars
        self._chars: Counter[str] = Counter()  # of each tenant's
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._count: Counter[str] = Counter()

    def join(self, call: Call, guest: Guest) -> None:
        """Put the conversation that a request goes on from in front of it, to be judged as one.

        Raises :class:`NotFound`, or :class:`TooLarge` when all of it is too long.
        """
        if call.previous is not None:
            record = self._find(call.previous, guest.tenant)
            call.messages = [*record.messages, *call.messages]
            check_length(call.messages, guest.reading.max_prompt_chars)
        if call.body.get("store") is not False:
            call.keep = functools.partial(self._keep, guest.tenant, call)

    def answer(self, method: str, path: str, guest: Guest) -> tuple[Json, str]:
        """Answer a request to a route of a stored response.

        Beside the answer comes the model's text in it, to be judged again; see :func:`withheld`.
        """
        found = STORED.fullmatch(path)
        assert found is not None
        name, action = found.groups()
        record = self._find(name, guest.tenant)
        if method == "DELETE":
            self._forget(name)
            return {"id": name, "object": "response", "deleted": True}, ""
        if action == "cancel":
            raise BadRequest(
                "cannot cancel a response that is not in the background",
                param="response_id",
                code="not_cancellable",
            )
        if action == "input_items":
            return _listed(record.asked), ""
        return record.response, "\n".join(texts_of(record.response["output"]))

    def _find(self, name: str, tenant: str) -> _Record:
        record = self._records.get(name)
        if record is None or record.tenant != tenant:
            raise NotFound(
                f"there is no stored response {name[:128]!r}",
                param="response_id",
                code="response_not_found",
            )
        self._records.move_to_end(name)
        return record

    def _keep(self, tenant: str, call: Call, response: Json) -> None:
        name = response.get("id")
        if not isinstance(name, str) or not STORED.fullmatch(f"/v1/responses/{name}"):
            return
        if name in self._records:  # an id given twice can't be trusted to be one response
            self._forget(name)
            return
        text = "\n".join(texts_of(response["output"]))
        messages = [*call.messages, {"role": "assistant", "content": text}]
        asked = call.body.get("input")
        # All that is kept counts: pictures, too, which nobody judges.
        chars = sum(map(len, strings([messages, asked, response])))
        record = _Record(tenant, messages, asked, response, chars)
        self._records[name] = record
        self._chars[tenant] += record.chars
        self._count[tenant] += 1
        if self._count[tenant] > self._per_tenant:
            self._forget_oldest(tenant)
        while self._chars.total() > self._most:
            # Of whoever has most: nobody's responses make room for another's that are larger.
            self._forget_oldest(self._chars.most_common(1)[0][0])

    def _forget_oldest(self, tenant: str) -> None:
        self._forget(next(key for key, one in self._records.items() if one.tenant == tenant))

    def _forget(self, name: str) -> None:
        record = self._records.pop(name)
        self._chars[record.tenant] -= record.chars
        self._count[record.tenant] -= 1
        if not self._count[record.tenant]:
            del self._count[record.tenant], self._chars[record.tenant]


def withheld(response: Json, message: str) -> Json:
    """Return a stored response with the policy's ``message`` in place of what was said in it."""
    said = message_item(f"msg_{response['id']}", message)
    ended = {"status": "incomplete", "incomplete_details": {"reason": FILTERED}}
    return {**response, **ended, "output": [said]}


def _listed(asked: Any) -> Json:
    items = asked
    if isinstance(asked, str):
        part = {"type": "input_text", "text": asked}
        items = [{"type": "message", "role": "user", "content": [part]}]
    data = [{"id": f"item_{n}", **item} for n, item in enumerate(items)]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"object": "list", "data": data, "has_more": False, **ends}


__all__ = ["MAX_CHARS", "MAX_PER_TENANT", "Stored", "withheld"]
