"""``prism proxy``: moderation in front of a server that no Python can be loaded into."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prism.cli.listening import authority, listen
from prism.cli.output import bad_input, reporting
from prism.cli.settings import Config, Host, Json, ServedPolicy, given_settings, starting

if TYPE_CHECKING:
    import uvicorn

    from prism.http.asgi import ASGIApp
    from prism.http.upstream import Upstream

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1", "0.0.0.0", "::"})
_IDLE_CLIENT = 75
# Longer than clients keep connections, so that it is they who close them.
_LAST_STREAMS = 10
_COLLECTED_AFTER = 50_000  # objects more than at the last garbage collection; Python's own is 700


def proxy(
    upstream: Annotated[
        str, typer.Option(metavar="URL", help="The server to moderate, e.g. http://127.0.0.1:8080.")
    ],
    policy: ServedPolicy = None,
    config: Config = None,
    host: Host = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where to listen; 0: any free port.")
    ] = 8000,
    connect_timeout: Annotated[
        float, typer.Option(min=0.01, help="Seconds the upstream may take to accept a connection.")
    ] = 5.0,
    idle_timeout: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="Seconds the upstream may be silent, before an answer or within it; "
            "and a client may take nothing of it.",
        ),
    ] = 600.0,
    ca: Annotated[
        Path | None,
        typer.Option(help="Certificates (PEM) to trust for https, instead of the system's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Moderate any server that speaks OpenAI's API: llama-server, vLLM, Ollama, SGLang ...

    Only requests that can be judged reach it. GET /prism/health is 200 once the upstream answers
    and a canary was stopped on both sides. Let nobody reach the upstream but through here.

    \b
    Example:
      llama-server --model gemma.gguf --host 127.0.0.1 --port 8080 &
      prism proxy --upstream http://127.0.0.1:8080 --policy house.yaml --port 8000
    """
    from prism.http.upstream import AddressError, Timeouts, Upstream

    try:
        there = Upstream(upstream, timeouts=Timeouts(connect_timeout, idle_timeout), ca=ca)
    except AddressError as error:
        bad_input(str(error), as_json)
    if there.url.host in {host, *(_LOCAL if host in _LOCAL else ())} and port == _port(there):
        bad_input(f"--upstream is where this proxy would listen ({there.url}); change one", as_json)
    _, settings = given_settings(policy, config, as_json)
    listener = listen(host, port, as_json)

    from prism.http import PrismMiddleware
    from prism.http.proxy import Proxy
    from prism.record.audit import AuditError

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    try:
        with reporting(as_json):
            app = PrismMiddleware(Proxy(there), settings=settings, engine="proxy")
    except AuditError as error:
        listener.close()
        bad_input(str(error), as_json)
    except typer.Exit:
        listener.close()
        raise
    server = server_of(app)
    here = f"http://{authority(listener)}"
    typer.echo(f"prism: listening on {here}, upstream {there.url}", err=True)
    typer.echo(f"prism: health: {here}/prism/health", err=True)
    if as_json:
        starting(settings, authority(listener), upstream=str(there.url))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # what is left of Ctrl-C after an orderly end
        raise typer.Exit(130) from None


def server_of(app: ASGIApp) -> uvicorn.Server:
    """Return the HTTP server that the proxy runs in, as yet without a socket.

    Call it once all else is there, in a process that is for this server: what there is by then, no
    garbage collection looks at any more.
    """
    import uvicorn

    gc.collect()
    gc.freeze()  # tables, policies and code stay; only what requests leave behind need be searched
    gc.set_threshold(_COLLECTED_AFTER)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_CLIENT,
            timeout_graceful_shutdown=_LAST_STREAMS,
        )
    )


def _port(upstream: Upstream) -> int:
    return upstream.url.port or (443 if upstream.url.scheme == "https" else 80)
