"""``guard`` in ``prism.yaml``: what it gives, and what is said where it is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prism.classify.guard import GuardError, LlmGuard
from prism.classify.guard.config import GuardFile, engine
from prism.classify.guard.formats import FORMATS
from prism.config import ConfigError, Settings

POLICY = (
    "prism: 1\nid: house\nrules:\n"
    "  - {id: names, category: prv, action: block, phrases: [zephyr lantern]}\n"
)
HTTP = "guard: {format: llama-guard-3, url: http://127.0.0.1:8001, model: guard"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "house.yaml").write_text(POLICY)
    return tmp_path


def load(text: str) -> Settings:
    Path("prism.yaml").write_text(f"policy: house.yaml\n{text}\n")
    return Settings.load("prism.yaml")


def test_no_guard(here):
    assert load("limits: {max_choices: 4}").guard is None


def test_a_server(here, monkeypatch):
    monkeypatch.setenv("ZEPHYR_KEY", "very-secret")
    more = ", api_key_env: ZEPHYR_KEY, deadline_ms: 500, batch: 4, window: 1000}"
    settings = load(HTTP + more).guard
    assert settings.format is FORMATS["llama-guard-3"]
    assert settings.takes_rules
    assert settings.deadline == 0.5
    assert "very-secret" not in repr(settings)
    guard = settings.open()
    assert isinstance(guard, LlmGuard)
    assert guard.name == "llama-guard-3"
    guard.close()


def test_the_options_of_a_format(here):
    tail = ", url: http://127.0.0.1:8001, model: guard"
    qwen = load(f"guard: {{format: qwen3guard-gen{tail}, controversial: 1.0}}").guard
    assert qwen.format.controversial == 1.0
    oss = load(f"guard: {{format: gpt-oss-safeguard{tail}, effort: high}}").guard
    assert oss.format.effort == "high"


def test_every_format_can_be_configured(here):
    for name in FORMATS:
        text = HTTP.replace("llama-guard-3", name) + "}"
        assert load(text).guard.format is FORMATS[name]


WRONG = {
    "a format that isn't one": (
        "guard: {format: lama-guard-3, url: http://x, model: y}",
        "prism.yaml:2:17: guard.format: 'lama-guard-3' is not a choice here; "
        "did you mean 'llama-guard-3'?",
    ),
    "no format": (
        "guard: {url: http://x, model: y}",
        "prism.yaml:2:8: guard.format: is missing; add it, for example `format: llama-guard-3`",
    ),
    "nowhere": (
        "guard: {format: wildguard}",
        "prism.yaml:2:1: guard: does not say where the model runs; add `url`, `llamacpp` or `vllm`",
    ),
    "in two places": (
        "guard: {format: wildguard, url: http://x, model: y, vllm: z}",
        "prism.yaml:2:53: guard.vllm: the guard already runs at `url`; remove one of them",
    ),
    "no model": (
        "guard: {format: wildguard, url: http://x}",
        "prism.yaml:2:28: guard.url: the server has to be told which model; "
        "add `model`, as the server names it",
    ),
    "no address": (
        "guard: {format: wildguard, url: localhost, model: y}",
        "prism.yaml:2:33: guard.url: 'localhost' is not an address; write `http://HOST:PORT`",
    ),
    "an address that is none": (
        "guard: {format: wildguard, url: 'http://[::1', model: y}",
        "prism.yaml:2:33: guard.url: 'http://[::1' is not an address; write `http://HOST:PORT`",
    ),
    "a password in the address": (
        "guard: {format: wildguard, url: http://a:b@x, model: y}",
        "prism.yaml:2:33: guard.url: must not hold a password; use `api_key_env`",
    ),
    "no such file": (
        "guard:\n  format: wildguard\n  llamacpp: nowhere.gguf",
        "prism.yaml:4:13: guard.llamacpp: no such file: nowhere.gguf; "
        "check the path, relative to this file",
    ),
    "an option of another place": (
        "guard: {format: wildguard, vllm: y, threads: 2}",
        "prism.yaml:2:37: guard.threads: has no effect with `vllm`; "
        "remove it; it is for `llamacpp`",
    ),
    "an option of another format": (
        "guard: {format: wildguard, vllm: y, controversial: 0.5}",
        "prism.yaml:2:37: guard.controversial: has no effect with wildguard; "
        "remove it; it is for qwen3guard-gen",
    ),
    "a key that isn't set": (
        "guard: {format: wildguard, url: http://x, model: y, api_key_env: NO_SUCH_KEY}",
        "prism.yaml:2:66: guard.api_key_env: the environment has no NO_SUCH_KEY; "
        "set it, or remove the line where the server wants no key",
    ),
    "a deadline of nothing": (
        "guard: {format: wildguard, vllm: y, deadline_ms: 0}",
        "prism.yaml:2:50: guard.deadline_ms: must be greater than or equal to 1; "
        "for example `deadline_ms: 2000`",
    ),
    "misspelt": (
        "guard: {format: wildguard, vlm: y}",
        "prism.yaml:2:28: guard.vlm: is not a known key; did you mean 'vllm'?",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_wrong(here, text, message):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in str(caught.value).splitlines()


RULE = "  - {id: kites, category: spc, action: block, plain_language: No advice on kites.}\n"


def test_a_guard_that_cant_take_plain_language_rules(here):
    (here / "house.yaml").write_text(POLICY + RULE)
    with pytest.raises(ConfigError) as caught:
        load("guard: {format: wildguard, url: http://x, model: y}")
    assert str(caught.value) == (
        "prism.yaml:2:17: guard.format: wildguard can't judge rule 'kites' of policy 'house'; "
        "use a format that takes plain-language rules: see docs/guards.md"
    )
    assert load("guard: {format: shieldgemma, url: http://x, model: y}").guard.takes_rules


DOCUMENT = (Path(__file__).parents[3] / "docs" / "guards.md").read_text(encoding="utf-8")


def test_every_key_format_and_category_is_described():
    for key in GuardFile.model_fields:
        assert f"`{key}`" in DOCUMENT, key
    for name, form in FORMATS.items():
        assert f"| `{name}` |" in DOCUMENT
        yes = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}` |"))
        assert ("| yes" in yes) == form.takes_rules, name


def test_the_examples_of_the_document(here, monkeypatch):
    monkeypatch.setenv("GUARD_API_KEY", "key")
    (here / "models").mkdir()
    (here / "models" / "llama-guard-3-1b-q8_0.gguf").write_bytes(b"")
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    guards = [block for block in blocks if "guard:" in block]
    assert len(guards) == 3
    for block in guards:
        Path("prism.yaml").write_text(block)
        assert Settings.load("prism.yaml").guard is not None
    (rules,) = (block for block in blocks if block.startswith("rules:"))
    (here / "house.yaml").write_text(f"prism: 1\nid: house\n{rules}")
    with pytest.raises(ConfigError, match="can't judge rule 'no-dosing-for-children'"):
        load("guard: {format: wildguard, url: http://x, model: y}")


def test_an_engine_that_isnt_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llamacpp_prism.guard_backend", None)
    with pytest.raises(GuardError, match=r"the guard needs llamacpp, and .* is missing: `pip"):
        engine("llamacpp", "x.gguf")
