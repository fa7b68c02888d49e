"""Where vLLM would leave the processor out, it does not start, and says why and what to do."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from engine_processes import process
from vllm_runs import result_of

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def cases(vllm_model, vllm_env):
    marked = Path(vllm_env["PRISM_POLICY"]).with_name("marked.yaml")
    marked.write_text("prism: 1\nid: marked\nwatermark: required\n", encoding="utf-8")
    return result_of("startup_cases.py", vllm_model, env=vllm_env)


def test_a_plain_configuration_starts_with_masked_logprobs(cases):
    assert cases["plain"]["logprobs_mode"] == "processed_logprobs"
    assert cases["raw logits"]["logprobs_mode"] == "processed_logits"


def test_the_processor_is_named_where_v1_would_hand_it_placeholders(cases):
    assert cases["plain"]["async"] is False
    assert not cases["plain"]["logits_processors"]
    assert cases["async"] == ["vllm_prism:PrismLogitsProcessor"]


@pytest.mark.parametrize(
    ("name", "reason", "fix"),
    [
        ("speculative", "V1 model runner skips logits processors", "remove --speculative-config"),
        ("pooling", "the pooling runner loads no logits processors", "--runner generate"),
        ("no tokenizer", "without a tokenizer", "remove --skip-tokenizer-init"),
        ("rust", "Rust front end runs no Python middleware", "unset VLLM_USE_RUST_FRONTEND"),
        ("grpc", "gRPC server runs no middleware", "remove --grpc"),
    ],
)
def test_an_unprotected_configuration_is_refused(cases, name, reason, fix):
    assert cases[name]["error"] == "UnprotectedError"
    assert "PRISM refuses to start" in cases[name]["message"]
    assert reason in cases[name]["message"]
    assert fix in cases[name]["message"]


def test_a_watermark_that_vllm_would_not_carry_stops_the_start(cases):
    """This machine has no Triton, so vLLM would fall back to the runner without watermark."""
    assert cases["watermark without a key"]["error"] == "WatermarkKeyError"
    assert "set PRISM_WATERMARK_KEY" in cases["watermark without a key"]["message"]
    assert cases["watermark"]["error"] == "UnprotectedError"
    assert "in its V2 model runner only" in cases["watermark"]["message"]


def test_a_wrong_policy_stops_the_start(cases):
    assert cases["no policy"]["error"] in ("ConfigError", "PolicyError")
    assert "/nowhere/policy.yaml" in cases["no policy"]["message"]


MISTAKES = {
    "unprotected": (
        ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 2}'],
        {},
        "prism: PRISM refuses to start: with speculative decoding the V1",
    ),
    "misconfigured": ([], {"PRISM_POLICY": "/nowhere/policy.yaml"}, "/nowhere/policy.yaml"),
}


@pytest.fixture(scope="module")
def failing(vllm_model, vllm_env, tmp_path_factory):
    """A server with each of the mistakes, all started at once, for each is slow to import vLLM."""
    with contextlib.ExitStack() as stack:
        started = {}
        for name, (options, environment, _) in MISTAKES.items():
            log = tmp_path_factory.mktemp("mistake") / "log"
            command = [
                sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", vllm_model,
                "--port", "0", "--middleware", "vllm_prism.PrismMiddleware", *options,
            ]  # fmt: skip
            run = stack.enter_context(process(command, log, **(vllm_env | environment)))
            started[name] = run, log
        yield started


@pytest.mark.parametrize("name", MISTAKES)
def test_the_server_itself_exits_with_the_reason(failing, name):
    run, log = failing[name]
    code = run.wait(420)
    said = log.read_text()
    assert code == 2, said
    assert MISTAKES[name][2] in said
    assert "Traceback" not in said


def test_filtered_plugins_fail_closed(vllm_env):
    """``VLLM_PLUGINS`` leaves the start-up checks out, but not the processor: it objects."""
    code = """
from vllm.plugins import load_general_plugins
load_general_plugins()
from vllm import SamplingParams
from vllm_prism import PrismLogitsProcessor, PrismMiddleware
for call in (
    lambda: PrismLogitsProcessor.validate_params(SamplingParams()),
    lambda: PrismLogitsProcessor(None, None, False),
    lambda: PrismMiddleware(None),
):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=vllm_env | {"VLLM_PLUGINS": "another"},
        timeout=420,
        check=False,
    )
    lines = [x for x in run.stdout.splitlines() if x.startswith("UnprotectedError")]
    assert len(lines) == 3, run.stdout + run.stderr
    assert all("add 'prism' to VLLM_PLUGINS" in line for line in lines)
