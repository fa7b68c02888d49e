"""``prism serve``: everything is checked before the engine takes over the process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import prism.cli.serve as serving
from prism.cli.app import app
from prism.cli.serve import Engine, command


def test_llamacpps_command_line():
    assert command(Engine.LLAMACPP, "m.gguf", "127.0.0.1", 8000, ["--n_ctx", "512"]) == [
        *(sys.executable, "-m", "llamacpp_prism", "--model", "m.gguf"),
        *("--host", "127.0.0.1", "--port", "8000", "--n_ctx", "512"),
    ]


def test_vllms_command_line():
    assert command(Engine.VLLM, "./gemma", "0.0.0.0", 9000, ["--dtype", "bfloat16"]) == [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "./gemma"),
        *("--host", "0.0.0.0", "--port", "9000"),
        *("--middleware", "vllm_prism.PrismMiddleware", "--dtype", "bfloat16"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: which model? give --model (and --engine, if it isn't a .gguf file)\n"),
        (("--model", "none.gguf"), "error: --model: no such file: none.gguf\n"),
        (
            ("--model", "m.gguf", "--policy", "hose"),
            "hose: is not the name of a shipped policy; use default, family, permissive, strict, "
            "or a path that ends in .yaml\n",
        ),
        (
            ("--model", "m.gguf", "--policy", "bad.yaml"),
            "bad.yaml:3:1: rulez: is not a known key; did you mean 'rules'?\n",
        ),
        (
            ("--model", "m.gguf", "--config", "prism.yaml"),
            "prism.yaml:1:1: polcy: is not a known key; did you mean 'policy'?\n",
        ),
    ],
)
def test_nothing_starts_when_something_is_wrong(prism, arguments, message):
    Path("m.gguf").write_bytes(b"GGUF")
    Path("bad.yaml").write_text("prism: 1\nid: bad\nrulez: []\n")
    Path("prism.yaml").write_text("polcy: bad.yaml\n")
    result = prism("serve", *arguments)
    assert (result.code, result.out, result.err) == (2, "", message)


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_isnt_one(prism, port):
    assert prism("serve", "--model", "m.gguf", "--port", port).code == 2


def test_an_engine_that_isnt_installed(prism, monkeypatch):
    Path("m.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # what an absent module looks like
    result = prism("serve", "--model", "m.gguf")
    assert result.code == 2
    assert result.err == (
        "error: the llamacpp engine is not installed (no module 'llama_cpp'); "
        'install it with pip install "prism-serving[llamacpp]"\n'
    )


def test_the_engine_takes_over_the_process(prism_process):
    """The engine's own --help answers, after the policy was checked and named."""
    Path("m.gguf").write_bytes(b"GGUF")
    result = prism_process("serve", "--model", "m.gguf", "--policy", "house.yaml", "--", "--help")
    assert result.code == 0
    assert result.err.startswith("prism: policy house (")
    assert "--n_ctx" in result.out


def test_a_stray_host_in_the_environment_does_not_open_the_port(tmp_path, monkeypatch):
    """llama_cpp.server reads HOST and PORT, and they win over its options."""
    seen = {}
    monkeypatch.setattr(serving.os, "execv", lambda *_: seen.update(serving.os.environ))
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "1")
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    assert CliRunner().invoke(app, ["serve", "--model", str(model)]).exit_code == 0
    assert (seen["HOST"], seen["PORT"]) == ("127.0.0.1", "8000")
