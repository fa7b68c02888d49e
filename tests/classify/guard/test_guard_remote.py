"""The OpenAI-compatible back end against a real server that says and does what a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from prism.classify.guard import GuardError, GuardTimeout, GuardUnreachable, GuardUnreadable
from prism.classify.guard.remote import OpenAIBackend, completions_url
from prism.classify.guard.types import Ask

SECRET = "zephyr-key"
YES_NO = Ask("Is it a zephyr?", ("Yes", "No"))
GOOD = {"choices": [{"text": " Yes", "logprobs": {"top_logprobs": [{" Yes": -0.1, " No": -2.0}]}}]}


class Server:
    """``act`` answers each request through its handler; ``seen`` has what was sent."""

    def __init__(self) -> None:
        self.act: Callable[[Any, dict[str, Any]], None] = lambda handler, _: send(handler, GOOD)
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.seen.append((self.path, body, dict(self.headers)))
                outer.act(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def send(handler: BaseHTTPRequestHandler, body: Any, status: int = 200) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("content-length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def backend(server: Server) -> Iterator[OpenAIBackend]:
    made = OpenAIBackend(server.url, "guard", api_key=SECRET, batch=4)
    yield made
    made.close()


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def test_one_question(server, backend):
    (got,) = backend.complete([YES_NO], soon())
    assert got.text == " Yes"
    assert got.top == {" Yes": -0.1, " No": -2.0}
    path, body, headers = server.seen[0]
    assert path == "/v1/completions"
    assert body == {
        "model": "guard", "prompt": "Is it a zephyr?", "max_tokens": 1, "temperature": 0,
        "logprobs": 20,
    }  # fmt: skip
    assert headers["Authorization"] == f"Bearer {SECRET}"


def test_text_is_asked_for_without_log_probabilities(server, backend):
    server.act = lambda handler, _: send(handler, {"choices": [{"text": "Hm."}]})
    (got,) = backend.complete([Ask("Think.", max_tokens=64, stop=("<|end|>",))], soon())
    assert (got.text, got.top) == ("Hm.", None)
    body = server.seen[0][1]
    assert body["stop"] == ["<|end|>"]
    assert body["skip_special_tokens"] is False
    assert "logprobs" not in body


def test_llama_servers_shape_of_log_probabilities(server, backend):
    content = [{"token": " No", "top_logprobs": [{"token": " No", "logprob": -0.2}]}]
    body = {"choices": [{"text": " No", "logprobs": {"content": content}}]}
    server.act = lambda handler, _: send(handler, body)
    assert backend.complete([YES_NO], soon())[0].top == {" No": -0.2}


def test_a_server_without_log_probabilities(server, backend):
    server.act = lambda handler, _: send(handler, {"choices": [{"text": " No", "logprobs": None}]})
    (got,) = backend.complete([YES_NO], soon())
    assert (got.text, got.top) == (" No", None)


def test_a_batch_is_asked_at_once_and_comes_back_in_order(server, backend):
    together = threading.Barrier(4)

    def act(handler: Any, body: dict[str, Any]) -> None:
        together.wait(30)  # passes only when four requests are there
        send(handler, {"choices": [{"text": body["prompt"]}]})

    server.act = act
    asks = [Ask(f"question {number}", max_tokens=4) for number in range(8)]
    got = backend.complete(asks, soon(60))
    assert [completion.text for completion in got] == [ask.prompt for ask in asks]


def test_connections_are_kept(server, backend):
    ports: set[int] = set()

    def act(handler: Any, _: Any) -> None:
        ports.add(handler.client_address[1])
        send(handler, GOOD)

    server.act = act
    for _ in range(5):
        backend.complete([YES_NO], soon())
    assert len(ports) == 1


def test_a_kept_connection_that_the_server_closed_is_no_failure(server, backend):
    def act(handler: Any, _: Any) -> None:
        if len(server.seen) == 2:
            handler.close_connection = True  # without a word
            return
        send(handler, GOOD)

    server.act = act
    backend.complete([YES_NO], soon())
    assert backend.complete([YES_NO], soon())[0].text == " Yes"
    assert len(server.seen) == 3


def test_a_server_that_always_breaks_off(server, backend):
    def act(handler: Any, _: Any) -> None:
        handler.close_connection = True

    server.act = act
    with pytest.raises(GuardUnreachable, match="broke off"):
        backend.complete([YES_NO], soon())
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("status", "hint"),
    [(400, "too long"), (401, "api_key_env"), (404, "model"), (500, "see its log")],
)
def test_what_the_server_refuses(server, backend, status, hint):
    answer = {"error": f"prompt was {YES_NO.prompt}"}
    server.act = lambda handler, _: send(handler, answer, status)
    with pytest.raises(GuardUnreachable, match=f"status {status}.*{hint}") as caught:
        backend.complete([YES_NO], soon())
    assert "zephyr" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"zephyr", b"[]", b"{}", {"choices": []}, {"choices": [{"text": None}]},
        {"choices": [{"text": "x", "logprobs": {"top_logprobs": "x"}}]},
        {"choices": [{"text": "x", "logprobs": {"content": []}}]},
    ],
)  # fmt: skip
def test_what_is_no_completion(server, backend, body):
    server.act = lambda handler, _: send(handler, body)
    with pytest.raises(GuardUnreadable, match="does not answer like /v1/completions"):
        backend.complete([YES_NO], soon())


def test_an_answer_without_end(server, backend):
    server.act = lambda handler, _: send(handler, b" " * 5_000_000)
    with pytest.raises(GuardUnreadable, match="more than 4 MB"):
        backend.complete([YES_NO], soon())


def test_the_deadline_holds_while_nothing_comes(server, backend):
    released = threading.Event()
    server.act = lambda handler, _: released.wait(30)
    with pytest.raises(GuardTimeout):
        backend.complete([YES_NO], soon(0.2))
    released.set()


def test_the_deadline_holds_while_an_answer_trickles_in(server, backend):
    def act(handler: Any, _: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        try:
            for _ in range(1000):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.02)
        except OSError:
            pass

    server.act = act
    until = soon(0.3)
    with pytest.raises(GuardTimeout):
        backend.complete([YES_NO], until)


def test_after_the_deadline_nothing_is_asked(server, backend):
    with pytest.raises(GuardTimeout):
        backend.complete([YES_NO], soon(-1))
    with pytest.raises(GuardTimeout):
        backend.complete([YES_NO] * 3, soon(-1))
    assert not server.seen


def test_one_failure_fails_the_batch(server, backend):
    def act(handler: Any, body: dict[str, Any]) -> None:
        send(handler, GOOD, 500 if body["prompt"] == "bad" else 200)

    server.act = act
    asks = [YES_NO, Ask("bad", ("Yes", "No")), *[YES_NO] * 6]
    with pytest.raises(GuardUnreachable, match="status 500"):
        backend.complete(asks, soon())


def test_a_server_that_is_gone(server):
    backend = OpenAIBackend(server.url, "guard")
    backend.complete([YES_NO], soon())
    server.http.server_close()
    backend._client.close()
    with pytest.raises(GuardUnreachable):
        backend.complete([YES_NO], soon())
    backend.close()
    with pytest.raises(GuardError):
        backend.complete([YES_NO] * 2, soon())


def test_nobody_listens():
    backend = OpenAIBackend("http://127.0.0.1:1", "guard")
    with pytest.raises(GuardUnreachable, match=r"127\.0\.0\.1:1/v1/completions can't be reached"):
        backend.complete([YES_NO], soon())
    backend.close()


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/", "/v1/completions"])
def test_addresses(tail):
    assert completions_url(f"http://host:8000{tail}") == "http://host:8000/v1/completions"
