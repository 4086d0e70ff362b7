"""A scored response as a JSON object: what rollouts.jsonl, the responses of an evaluation, the reuse store and the
output of `ar3po grade` are made of. Each names the parts it holds; what a field stands for is said here, once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megatron_ar3po.types import Response, ScoredResponse, Verdict


def provenance_json(response: Response) -> dict[str, Any]:
    """Where a response came from. A dict by hand: a deposit renders thousands of them."""
    return {
        "finish_reason": response.finish_reason,
        "policy_version": response.policy_version,
        "step": response.step,
        "stage": response.stage,
        "index": response.index,
        "seed": response.seed,
        "server": response.server,
        "num_cached_tokens": response.num_cached_tokens,
        "elapsed_s": response.elapsed_s,
    }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "reward": verdict.reward,
        "status": verdict.status,
        "extracted": verdict.extracted,
        "reason": verdict.reason,
        "elapsed_s": verdict.elapsed_s,
    }


def readable_json(scored: ScoredResponse, text: str, names: Sequence[str]) -> dict[str, Any]:
    """For people: the text, then the fields `names` of response and verdict side by side, in their order."""
    known = {
        **provenance_json(scored.response),
        **verdict_json(scored.verdict),
        "origin": scored.origin,
        "tokens": scored.response.num_tokens,
    }
    return {"text": text, **{name: known[name] for name in names}}
