"""``prism serve``: everything is checked before the engine takes over the process."""

from __future__ import annotations

import socket
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
        *("--host", "127.0.0.1", "--port", "8000", "--verbose", "False", "--n_ctx", "512"),
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
        'install it with pip install ".[llamacpp]" in a clone of PRISM\n'
    )


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(prism):
    Path("m.gguf").write_bytes(b"GGUF")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = prism("serve", "--model", "m.gguf", "--port", port)
    assert result.code == 2
    assert result.err.endswith(
        f"error: can't listen on 127.0.0.1 port {port}: Address already in use; "
        "choose another --host or --port, or end what is using it\n"
    )


@pytest.fixture
def port():
    """A port that nobody else is given: it stays bound, and its owner allows a second socket."""
    with socket.socket() as mine:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        mine.bind(("127.0.0.1", 0))
        yield str(mine.getsockname()[1])


def test_the_engine_takes_over_the_process(prism_process, port):
    """The engine's own --help answers, after the policy was checked and named."""
    Path("m.gguf").write_bytes(b"GGUF")
    result = prism_process(
        *("serve", "--model", "m.gguf", "--policy", "house.yaml", "--port", port, "--", "--help")
    )
    assert result.code == 0
    assert result.err.startswith("prism: policy house (")
    health = f"http://127.0.0.1:{port}/prism/health"
    assert result.err.endswith(f"prism: starting llamacpp; live once {health} is 200\n")
    assert "--n_ctx" in result.out


def test_a_stray_host_in_the_environment_does_not_open_the_port(tmp_path, monkeypatch, port):
    """llama_cpp.server reads HOST and PORT, and they win over its options."""
    seen = {}
    monkeypatch.setattr(serving.os, "execv", lambda *_: seen.update(serving.os.environ))
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "1")
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    asked = ["serve", "--model", str(model), "--port", port]
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert (seen["HOST"], seen["PORT"]) == ("127.0.0.1", port)


def test_json_says_what_is_about_to_serve_or_what_is_wrong(prism, house, monkeypatch, port):
    monkeypatch.setattr(serving.os, "execv", lambda *_: None)
    Path("m.gguf").write_bytes(b"GGUF")
    asked = ("serve", "--json", "--model", "m.gguf", "--policy", "house.yaml", "--port", port)
    with monkeypatch.context() as patch:  # it sets HOST and PORT for the engine
        patch.setattr(serving.os, "environ", dict(serving.os.environ))
        told = prism(*asked)
    assert told.code == 0
    assert told.json.pop("policy")["id"] == "house"
    here = f"http://127.0.0.1:{port}"
    assert (told.json["url"], told.json["health"]) == (here, f"{here}/prism/health")
    assert told.json["engine"] == "llamacpp"
    told = prism("serve", "--json", "--model", "none.gguf")
    assert told.code == 2
    assert told.json == {"error": {"message": "--model: no such file: none.gguf"}}
