"""What no API family takes: options that go round moderation, each refused by its name."""

from __future__ import annotations

from typing import Any

from prism.http.errors import BadRequest
from prism.http.written import strings

_REFUSED = {
    "prompt_embeds": "embeddings in place of text can't be judged",
    "chat_template": "a template sent by a client can put any text together",
    "kv_transfer_params": "a prompt computed elsewhere can't be judged",
    "ec_transfer_params": "inputs encoded elsewhere can't be judged",
    "return_token_ids": "token ids would show text that is held back; ask for logprobs instead",
    "return_tokens_as_token_ids": "token ids would show text that is held back",
    "return_prompt_text": "the rendered prompt is not part of what is judged",
    "prompt_logprobs": "the engine's guesses inside the prompt are not judged",
    "extra_args": "arguments for engine extensions are the operator's to set",
    # Of other servers that a proxy may stand before: SGLang, text-generation-webui.
    **dict.fromkeys(
        ("input_embeds", "inputs_embeds"), "embeddings in place of text can't be judged"
    ),
    **dict.fromkeys(
        ("input_ids", "prompt_token_ids"), "token ids beside the prompt can't be judged; send text"
    ),
    **dict.fromkeys(
        ("chat_template_str", "instruction_template_str"),
        "a template sent by a client can put any text together",
    ),
    "session_params": "a conversation kept elsewhere can't be judged",
    "custom_logit_processor": "code for the sampler is the operator's to set",
}
_VARIABLES = "chat_template_kwargs"
_CONVERSATION = ("messages", "conversation")


def refuse_unsafe(body: dict[str, Any], engine: str) -> None:
    """Raise :class:`BadRequest` if the request asks for what moderation can't cover."""
    for prefix, place in _places(body):
        for key in place:
            if key in _REFUSED and _asked(place, key):
                raise BadRequest(
                    f"{prefix + key!r} is not available on a moderated server: {_REFUSED[key]}",
                    param=prefix + key,
                    code="not_moderated",
                )
    variables = body.get(_VARIABLES)
    if isinstance(variables, dict):
        for key in _CONVERSATION:
            if _asked(variables, key):
                raise BadRequest(
                    f"'{_VARIABLES}.{key}' is not available on a moderated server: it could take "
                    "the place of the conversation that is judged",
                    param=f"{_VARIABLES}.{key}",
                    code="not_moderated",
                )
    if _asked(body, "use_beam_search"):
        raise BadRequest(
            "beam search is not available on a moderated server: it bypasses the token layer",
            param="use_beam_search",
            code="not_moderated",
        )
    _refuse_policy_choice(body)
    if engine == "vllm":
        _refuse_for_vllm(body)
    if engine != "vllm":
        _refuse_llguidance(body)


def _places(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return where a request can ask for something: vLLM's own arguments become ``extra_args``,
    and a template's variables are what the template says they are."""
    below = [(f"{key}.", body.get(key)) for key in ("vllm_xargs", _VARIABLES)]
    return [("", body), *((prefix, place) for prefix, place in below if isinstance(place, dict))]


def _asked(body: dict[str, Any], key: str) -> bool:
    value = body.get(key)
    return value is not None and value is not False  # 0 asks for something


def _refuse_for_vllm(body: dict[str, Any]) -> None:
    # vLLM's own objections come too late for a status: a stream has begun with 200 by then.
    budget = body.get("thinking_token_budget")
    if budget is not None and budget != -1:
        raise BadRequest(
            "'thinking_token_budget' is not available on a moderated server: it forces tokens "
            "after the policy was applied",
            param="thinking_token_budget",
            code="not_moderated",
        )
    asked = body.get("logprobs")
    if body.get("echo") is True and "prompt" in body and isinstance(asked, int) and asked > 0:
        raise BadRequest(
            "'echo' with alternatives in 'logprobs' is not available on a moderated server: it "
            "shows the engine's guesses inside the prompt; logprobs: 0 is",
            param="logprobs",
            code="not_moderated",
        )


def _refuse_policy_choice(body: dict[str, Any]) -> None:
    for prefix, place in _places(body):
        for key in place:
            if key.strip().lower().replace("-", "_").startswith("prism"):
                raise BadRequest(
                    f"{prefix}{key[:64]} can't be set by a client: the operator chooses the policy",
                    param=prefix + key[:64],
                    code="policy_not_yours",
                )


def _refuse_llguidance(body: dict[str, Any]) -> None:
    # A llama.cpp server built without llguidance aborts on such a grammar, with every request
    # that it is serving.
    for key, value in body.items():
        if "grammar" in key or key in ("response_format", "structured_outputs"):
            for text in strings(value):
                if "%llguidance" in text:
                    raise BadRequest(
                        "grammars for llguidance are not accepted here",
                        param=key,
                        code="unsupported_grammar",
                    )
