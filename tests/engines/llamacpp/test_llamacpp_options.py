"""The command line is llama_cpp.server's, option for option, and PRISM's own."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_texts import REFUSAL
from llama_cpp.server import settings as upstream
from llama_cpp.server.cli import add_args_from_model, parse_model_from_args

from llamacpp_prism import UnsupportedModelError
from llamacpp_prism.server import parse
from prism.config import ConfigError

pytestmark = pytest.mark.engine

VALUES: dict[str, list[str]] = {
    "model": ["model.gguf"],
    "tensor_split": ["0.5", "0.5"],
    "kv_overrides": ["a=int:1", "b=bool:true"],
    "chat_template_kwargs": ['{"enable_thinking": false}'],
    "cache_type": ["disk"],
    "draft_model": [],
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, engine_policy: Path) -> None:
    for name in ("CONFIG_FILE", "HOST", "PORT", "PRISM_CONFIG", "LOGITS_ALL", "MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PRISM_POLICY", str(engine_policy))


def upstream_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_args_from_model(parser, upstream.Settings)
    parser.add_argument("--config_file", type=str)
    return parser


OPTIONS = sorted(
    action.dest
    for action in upstream_parser()._actions
    if action.dest not in ("help", "config_file", "draft_model")
)


def value_of(name: str) -> list[str]:
    if name in VALUES:
        return VALUES[name]
    kind = str(upstream.Settings.model_fields[name].annotation)
    return ["true"] if "bool" in kind else ["3"] if "int" in kind or "float" in kind else ["some"]


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_of_the_engine_is_kept(name: str) -> None:
    argv = [f"--{name}", *value_of(name)]
    if name != "model":
        argv += ["--model", "model.gguf"]
    args = upstream_parser().parse_args(argv)
    _, server, models = parse(argv)
    theirs = parse_model_from_args(upstream.ServerSettings, args).model_dump()
    if name != "interrupt_requests":
        theirs["interrupt_requests"] = False
    assert server.model_dump() == theirs
    expected = parse_model_from_args(upstream.ModelSettings, args).model_dump()
    if name != "logits_all":
        expected["logits_all"] = False
    assert models[0].model_dump() == expected


def test_a_request_is_interrupted_only_where_that_is_asked_for(tmp_path: Path) -> None:
    config = tmp_path / "server.json"
    config.write_text(json.dumps({"models": [{"model": "m"}]}))
    assert parse(["--model", "m"])[1].interrupt_requests is False
    assert parse(["--config_file", str(config)])[1].interrupt_requests is False
    assert parse(["--model", "m", "--interrupt_requests", "true"])[1].interrupt_requests is True
    config.write_text(json.dumps({"models": [{"model": "m"}], "interrupt_requests": True}))
    assert parse(["--config_file", str(config)])[1].interrupt_requests is True


def test_every_option_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in [*OPTIONS, "config_file", "draft_model", "policy", "prism-config"]:
        assert f"--{name} " in shown
    assert "llama_cpp.server defaults to True" in shown


def test_the_engines_abbreviations_stay_unambiguous() -> None:
    _, server, models = parse(["--model", "m", "--p", "1234", "--n_c", "64"])
    assert (server.port, models[0].n_ctx) == (1234, 64)


def test_logits_all_can_be_switched_on_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse(["--model", "m"])[2][0].logits_all is False
    assert parse(["--model", "m", "--logits_all", "true"])[2][0].logits_all is True
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"models": [{"model": "m"}, {"model": "n", "logits_all": True}]}))
    models = parse(["--config_file", str(config)])[2]
    assert [model.logits_all for model in models] == [False, True]
    monkeypatch.setenv("LOGITS_ALL", "true")
    assert parse(["--model", "m"])[2][0].logits_all is True


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
def test_config_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    config = tmp_path / f"config.{suffix}"
    config.write_text(
        json.dumps({"port": 8123, "models": [{"model": "a"}, {"model": "b", "n_ctx": 64}]})
    )
    monkeypatch.setenv("CONFIG_FILE", str(config))
    _, server, models = parse([])
    assert server.port == 8123
    assert [(model.model, model.n_ctx) for model in models] == [("a", 2048), ("b", 64)]


def test_draft_models_are_refused_wherever_they_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="draft_model"):
        parse(["--model", "m", "--draft_model", "prompt-lookup-decoding"])
    config = tmp_path / "config.json"
    models = [{"model": "a"}, {"model": "b", "draft_model": "prompt-lookup-decoding"}]
    config.write_text(json.dumps({"models": models}))
    with pytest.raises(UnsupportedModelError, match=r"draft_model.*\bb\b"):
        parse(["--config_file", str(config)])


def test_policies_come_from_options_or_the_environment(
    tmp_path: Path, engine_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ["--model", "m"]
    assert parse(model)[0].policy.message() == REFUSAL
    assert parse([*model, "--policy", "strict"])[0].policy.id == "strict"
    config = tmp_path / "prism.yaml"
    config.write_text(f"policy: permissive\nfloor: {engine_policy}\n")
    monkeypatch.delenv("PRISM_POLICY")
    named = parse([*model, "--prism-config", str(config)])[0].policy
    assert named.rule("blocked")
    monkeypatch.setenv("PRISM_CONFIG", str(config))
    # A policy on the command line replaces the file's, and the file's floor still holds.
    assert parse([*model, "--policy", "default"])[0].policy.rule("blocked")
    with pytest.raises(ConfigError, match="nowhere"):
        parse([*model, "--policy", "nowhere"])


def run(*argv: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run the server on a port that is taken, so that an attempt to listen would show."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [sys.executable, "-m", "llamacpp_prism", "--host", "127.0.0.1", "--port", port, *argv],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert "address already in use" not in ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def test_a_bad_policy_ends_it_before_the_port_opens(tmp_path: Path, llama_gguf: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("prism: 1\nid: bad\nextends: default\nrulez: []\nmode: loud\n")
    code, said = run("--model", str(llama_gguf), "--policy", str(bad))
    assert code == 2
    lines = said.strip().splitlines()
    assert "bad.yaml:4:1: rulez" in lines[0]
    assert "bad.yaml:5:7: mode" in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--model", "/nowhere/model.gguf"], "Model path does not exist: /nowhere/model.gguf"),
        ([], "model"),
        (["--model", "m", "--config_file", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--model", "m", "--n_batch", "0"], "n_batch"),
        (["--model", "m", "--no_such_option", "1"], "--no_such_option"),
        (["--model", "m", "--draft_model", "prompt-lookup-decoding"], "draft_model"),
    ],
)
def test_bad_options_end_it_with_a_reason(argv: list[str], expected: str) -> None:
    code, said = run(*argv)
    assert code == 2
    assert expected in said


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"not a model" * 100)
    code, said = run("--model", str(path), "--verbose", "false")
    assert code == 2
    assert "Failed to load model from file" in said


def test_broken_config_files_are_named(tmp_path: Path) -> None:
    cases: dict[str, Any] = {
        "broken.json": "{",
        "broken.yaml": "models: [",
        "none.yaml": "models: []",
        "list.json": "[]",
        "wrong.json": '{"models": [{"n_ctx": 5}]}',
    }
    for name, text in cases.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises((ValueError, OSError)) as caught:
            parse(["--config_file", str(path)])
        assert name in str(caught.value)
