"""The routes that PRISM answers itself: health, metrics, moderations, stored responses."""

from __future__ import annotations

from prism.http import moderations
from prism.http.asgi import Receive, Scope, Send, route_path, send_bytes
from prism.http.body import check_media_type, parse_object, read_body
from prism.http.errors import send_json
from prism.http.server import Server
from prism.http.stored import withheld
from prism.record import metrics as exposition
from prism.types import Action, Stage


async def health(server: Server, send: Send) -> None:
    """Say which layers are live: 200 if all are, else 503."""
    await server.selftest.refresh(wait=0.5)
    policy = server.settings.policy
    report = {
        **server.selftest.report(),
        **server.books.report(),
        **server.tenancy.report(),
        "policy": policy.digest,
        "policy_id": policy.id,
    }
    if server.selftest.ok and not server.books.ok:
        report["status"] = "failed"
    await send_json(send, 200 if server.ok else 503, report)


async def metrics(server: Server, scope: Scope, send: Send) -> None:
    """Send the counters; where they are private, to the operator alone."""
    if server.settings.private_metrics:
        server.tenancy.operator(scope)
    await send_bytes(send, 200, server.metrics.render(), {"content-type": exposition.CONTENT_TYPE})


async def stored(server: Server, scope: Scope, send: Send) -> None:
    """Answer for a stored response: from what went out, never from the engine's store."""
    guest = await server.tenancy.admit(scope)
    server.require_live()
    body, said = server.stored.answer(scope["method"], route_path(scope), guest)
    if said:  # the policy may have become stricter since
        session = guest.session()
        judged = await server.pool.run(
            len(said),
            lambda: guest.moderator.check_output(said),
            waits=session.waits(len(said)),
        )
        if judged.action >= Action.REDACT:
            body = withheld(body, session.message)
    server.metrics.request("responses", "passed")
    await send_json(send, 200, body)


async def moderation(server: Server, scope: Scope, receive: Receive, send: Send) -> None:
    """Judge the inputs of a request to ``/v1/moderations``."""
    guest = await server.tenancy.admit(scope)
    server.require_live()
    raw = await read_body(scope, receive, guest.max_body_bytes)
    check_media_type(scope)
    call, inputs = await server.pool.run(
        len(raw), lambda: moderations.read(parse_object(raw), guest.reading)
    )
    sessions = [guest.session() for _ in inputs]
    guest.begin(call)
    try:
        work = moderations.weight(call, inputs)
        answer = await server.pool.run(
            work, lambda: moderations.answer(inputs, sessions), waits=sessions[0].waits(call.chars)
        )
    finally:
        guest.end(call, 0)
    await server.books.write_moderations(
        [(session, one.messages) for session, one in zip(sessions, inputs, strict=True)]
    )
    server.metrics.request("moderations", "passed")
    server.metrics.text(Stage.PROMPT, call.chars)
    for session in sessions:
        server.metrics.decision(session.decision)
    await send_json(send, 200, answer, {"x-prism-id": sessions[0].id})
