"""The conformance suite against llama.cpp's two servers, made to speak by a grammar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from proxy_conform import conform, passed

from prism.conform.texts import POLICY

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def conform_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "conformance.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture(scope="module")
def python_server(start_python: Any) -> Iterator[Any]:
    with start_python() as running:
        yield running


BOTH = {
    f"{api}.{how}.{what}"
    for api in ("chat", "completions")
    for how in ("whole", "stream")
    for what in ("prompt", "output", "harmless")
} | {
    "stream.held.chat", "stream.letters", "chunks.unicode", "bypass.parts-apart", "bypass.system",
    "tenants.override.policy", "records.claims",
}  # fmt: skip


def only(names: set[str]) -> list[str]:
    """Return the options that ask for these alone: a grammar makes llama.cpp slow to speak."""
    return [f"--only={name}" for name in sorted(names)]


def test_native_server(native: Any, start_proxy: Any, conform_policy: Path) -> None:
    asked = BOTH | {f"responses.{how}.output" for how in ("whole", "stream")}
    # The last: the server takes no grammar on this route, so nothing can make the model say it.
    scripted = {
        "tools.chat.whole.arguments", "channels.reasoning.chat.stream", "messages.stream.output",
    }  # fmt: skip
    with start_proxy(native.url, "--policy", str(conform_policy)) as proxy:
        rows = conform(proxy.url, *only(asked | scripted))
    assert passed(rows) >= asked
    # What only the scripted engine can say is never counted as passed.
    assert {rows[name]["outcome"] for name in scripted} == {"not applicable"}


def test_python_server(python_server: Any, start_proxy: Any, conform_policy: Path) -> None:
    with start_proxy(python_server.url, "--policy", str(conform_policy)) as proxy:
        # It serves one request at a time, and breaks off the stream that it is writing for another.
        rows = conform(proxy.url, *only(BOTH | {"messages.whole.prompt"}))
    assert passed(rows) >= BOTH
    assert "doesn't offer /v1/messages" in rows["messages.whole.prompt"]["evidence"]
