"""What the HTTP tests share: a policy, the scripted engine, and a real server around both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
from house import FAST, POLICY
from raw import Raw
from serving import healthy, http, served
from upstream import Upstream

from prism.config import Limits, Settings
from prism.http import PrismMiddleware


@pytest.fixture(scope="session", autouse=True)
def close_the_client() -> Iterator[None]:
    yield
    http.close()


@pytest.fixture(scope="session")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "http.yaml"
    path.write_text(POLICY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def settings(policy_file: Path) -> Settings:
    loaded = Settings.for_policy(policy_file)
    return Settings(loaded.policy, Limits(max_body_bytes=100_000, max_prompt_chars=50_000))


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
def middleware(upstream: Upstream, settings: Settings) -> PrismMiddleware:
    return PrismMiddleware(upstream.app, settings=settings, timing=FAST)


@pytest.fixture(scope="module")
def url(middleware: PrismMiddleware) -> Iterator[str]:
    """Base URL of the moderated server, healthy."""
    with served(middleware) as base:
        healthy(base)
        yield base


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as made:
        yield made


@pytest.fixture
async def raw() -> AsyncIterator[Raw]:
    """A server for the proxy to stand in front of."""
    server = Raw()
    await server.start()
    yield server
    await server.stop()
