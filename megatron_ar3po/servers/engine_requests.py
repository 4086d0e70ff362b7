"""Requests to SGLang's /generate: for a sample of the policy, or for how likely a response that exists is to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from megatron_ar3po.servers.engine_responses import check_length, parse_generation, parse_scoring
from megatron_ar3po.servers.usage import lost_usage
from megatron_ar3po.types import Generation, GenerationRequest, Scoring, ScoringRequest
from megatron_ar3po.usage import ServerUsage

Result = TypeVar("Result", Generation, Scoring)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest(Generic[Result]):
    """The body, how the response to it is read, and the most that it may have cost when it gets lost."""

    request_id: str
    prompt_token_ids: tuple[int, ...]  # of the prompt alone: its server holds them
    body: dict[str, Any]
    read: Callable[[dict[str, Any], str], Result]  # (SGLang's response, name of the server)
    lost: ServerUsage
    may_have_company: bool = True  # of others in one HTTP call


def encode_generation(
    request: GenerationRequest, *, vocab_size: int, is_seeded: bool
) -> EngineRequest[Generation]:
    sampling = request.sampling
    parameters: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_response_tokens,
        "stop_token_ids": list(sampling.stop_token_ids),
    }
    if is_seeded:
        parameters["sampling_seed"] = request.seed

    def read(response: dict[str, Any], server: str) -> Generation:
        generation = parse_generation(response, vocab_size=vocab_size)
        check_length(generation, request, server)
        return generation

    return EngineRequest(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        body={"input_ids": list(request.prompt_token_ids), "sampling_params": parameters},
        read=read,
        lost=lost_usage(
            prompt_tokens=len(request.prompt_token_ids),
            generated_tokens=sampling.max_response_tokens,
        ),
    )


def encode_scoring(request: ScoringRequest, *, vocab_size: int) -> EngineRequest[Scoring]:
    """No new token; the log-probs of the input's tokens behind the prompt's last one."""
    token_ids = [*request.prompt_token_ids, *request.response_token_ids]
    return EngineRequest(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        body={
            "input_ids": token_ids,
            "sampling_params": {"max_new_tokens": 0},
            "logprob_start_len": len(request.prompt_token_ids) - 1,
        },
        read=lambda response, server: parse_scoring(response, request, vocab_size=vocab_size),
        lost=lost_usage(prompt_tokens=len(token_ids), generated_tokens=0),
        may_have_company=False,
    )
