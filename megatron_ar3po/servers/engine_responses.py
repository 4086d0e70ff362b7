"""SGLang's responses from /generate, checked before anyone sees them: lengths, ids, vocabulary, finish reason, one
policy version. A `LostRequest` may be mended by a second try, a `RolloutEngineError` cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.usage import was_begun
from megatron_ar3po.types import (
    FinishReason,
    Generation,
    GenerationRequest,
    Scoring,
    ScoringRequest,
)
from megatron_ar3po.usage import Process

_FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length", "abort")


class RequestError(Exception):
    """No response to a request that was sent."""

    process: Process | None = None  # who answered, where the answer says so


class LostRequest(RequestError):
    """One try brought no usable response; another may."""


class RefusedRequest(RequestError):
    """The server takes no such request (HTTP 400), whoever tries: in its words."""


def check_status(status: int, body: bytes) -> None:
    if status == 400:
        raise RefusedRequest(body.decode(errors="replace"))
    if status != 200:
        raise LostRequest(f"HTTP {status}: {body[:200]!r}")


def decode_response(text: bytes, *, rid: str) -> dict[str, Any]:
    """`rid`: of the request that was sent; a response to another one is of no use to us."""
    try:
        response = json.loads(text)
        stated = response["meta_info"]["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise LostRequest(f"malformed response {text[:200]!r}") from error
    if stated != rid:
        raise LostRequest(f"the response is one to request {stated!r}, not to {rid!r}")
    return response


# What SGLang names when it refuses a request -> the options that the refused part comes from. The first that fits.
_OPTIONS_OF_REFUSALS = (
    (
        "maximum allowed length",
        "data.max_prompt_tokens, and servers.max_total_tokens (CPU) or "
        "servers.sglang.mem_fraction_static (GPU), which hold it",
    ),
    ("context length", "data.max_prompt_tokens and rollout.max_response_tokens"),
    ("temperature", "rollout.temperature (in an evaluation, evaluation.temperature)"),
    ("top_p", "rollout.top_p (in an evaluation, evaluation.top_p)"),
    ("max_new_tokens", "rollout.max_response_tokens"),
    ("stop_token_id", "rollout.extra_stop_token_ids"),
    ("seed", "run.seed"),
    ("vocab", "model.path, whose tokenizer has other tokens than the server's model"),
    ("logprob", "reuse.pick and reuse.min_mean_logprob"),
)


def explain_refusal(server: str, rid: str, text: str, body: Mapping[str, Any]) -> str:
    """Of a request that SGLang answers with 400, which no second try mends: what it says, what it was sent, and which
    options that comes from."""
    try:
        said = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = text
    sent = {"prompt tokens": len(body.get("input_ids", ())), **body.get("sampling_params", {})}
    options = next((to for named, to in _OPTIONS_OF_REFUSALS if named in said.lower()), "")
    whence = f" That comes from {options}." if options else ""
    return (
        f"server {server} refuses request {rid} (HTTP 400): {said[:500].rstrip('. ')}.{whence} It was sent "
        + ", ".join(f"{name}={value}" for name, value in sent.items())
        + "."
    )


def parse_generation(response: dict[str, Any], *, vocab_size: int) -> Generation:
    """SGLang's response, checked. Raises `LostRequest` for what a second try may mend, `RolloutEngineError` for what it
    cannot (weights of an unknown or mixed version)."""
    meta = response["meta_info"]
    try:
        token_ids = np.asarray(response["output_ids"], dtype=np.int32)
        entries = meta["output_token_logprobs"] or []
        logprobs = np.asarray([entry[0] for entry in entries], dtype=np.float32)
        logprob_ids = np.asarray([entry[1] for entry in entries], dtype=np.int32)
        finish_reason = meta["finish_reason"]["type"]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise LostRequest(f"malformed response: {type(error).__name__} {error}") from error
    if finish_reason not in _FINISH_REASONS:
        raise LostRequest(f"unknown finish reason {finish_reason!r}")
    if finish_reason != "abort":
        _check_tokens(token_ids, logprobs, logprob_ids, vocab_size)
    if not was_begun(
        meta
    ):  # it may have tokens from before it went back into the queue; no server counts them
        token_ids, logprobs = token_ids[:0], logprobs[:0]
    return Generation(
        token_ids=token_ids,
        logprobs=logprobs,
        finish_reason=finish_reason,
        policy_version=_policy_version(meta),
        server="",
        num_cached_tokens=int(meta.get("cached_tokens", 0)),
        was_begun=was_begun(meta),
    )


def parse_scoring(response: dict[str, Any], request: ScoringRequest, *, vocab_size: int) -> Scoring:
    """SGLang's response to a request for the input's log-probs: one for each token of the response, none sampled. It
    calls the vocabulary's last token 0 here (logprob_result_processor.py), with the right log-prob."""
    meta = response["meta_info"]
    try:
        if meta["finish_reason"]["type"] == "abort":
            raise LostRequest("aborted by the server")
        entries = meta["input_token_logprobs"][1:]  # the first is the prompt's last token
        token_ids = tuple(entry[1] for entry in entries)
        logprobs = np.asarray([entry[0] for entry in entries], dtype=np.float32)
        num_sampled = len(response["output_ids"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise LostRequest(f"malformed response: {type(error).__name__} {error}") from error
    expected = tuple(t if t < vocab_size - 1 else 0 for t in request.response_token_ids)
    if token_ids != expected or num_sampled:
        raise LostRequest(
            f"{len(token_ids)} log-probs and {num_sampled} sampled tokens for the "
            f"{len(request.response_token_ids)} tokens of a response to be scored"
        )
    if not np.isfinite(logprobs).all():
        raise LostRequest("a log-prob that is not finite")
    return Scoring(
        logprobs=logprobs,
        policy_version=_policy_version(meta),
        server="",
        num_cached_tokens=int(meta.get("cached_tokens", 0)),
    )


def _check_tokens(
    token_ids: np.ndarray, logprobs: np.ndarray, logprob_ids: np.ndarray, vocab_size: int
) -> None:
    if not len(token_ids) or token_ids.ndim != 1:
        raise LostRequest(f"output_ids of shape {token_ids.shape}")
    if not np.array_equal(token_ids, logprob_ids):
        raise LostRequest(
            f"{len(token_ids)} output_ids and {len(logprobs)} log-probs that do not speak of the same tokens"
        )
    if token_ids.min() < 0 or token_ids.max() >= vocab_size:
        raise LostRequest(
            f"token ids outside the vocabulary of {vocab_size}: {token_ids.tolist()[:20]}"
        )
    if not np.isfinite(logprobs).all():
        raise LostRequest("a log-prob that is not finite")


def check_length(generation: Generation, request: GenerationRequest, server: str) -> None:
    limit, length = request.sampling.max_response_tokens, len(generation.token_ids)
    if generation.finish_reason == "length" and length < limit:
        raise RolloutEngineError(
            f"server {server} cut request {request.request_id} after {length} of "
            f"rollout.max_response_tokens={limit} tokens: prompt ({len(request.prompt_token_ids)} tokens) and response "
            "do not fit its KV cache. Raise servers.max_total_tokens (CPU), servers.sglang.mem_fraction_static (GPU), "
            "or lower the limit."
        )


def _policy_version(meta: dict[str, Any]) -> int:
    """The one version whose weights sampled every token."""
    stated = {str(span["version"]) for span in meta.get("weight_versions") or []}
    stated.add(str(meta.get("weight_version")))
    version = stated.pop()
    if stated:
        raise RolloutEngineError(
            f"the weights changed while a response was sampled (versions {sorted({version, *stated})}); publish only "
            "between rollouts."
        )
    if not version.isdigit():
        raise RolloutEngineError(
            f"the server's weight version is {version!r}: it was never given the run's weights. "
            "Publish before sampling."
        )
    return int(version)
