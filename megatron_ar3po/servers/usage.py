"""One response of a server -> what it adds to the account of its process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megatron_ar3po.usage import Retries, ServerUsage


def is_abort(meta: dict[str, Any]) -> bool:
    reason = meta.get("finish_reason")
    return isinstance(reason, dict) and reason.get("type") == "abort"


def was_begun(meta: dict[str, Any]) -> bool:
    """A request that was aborted in the server's queue comes back without a count of its prompt."""
    return not is_abort(meta) or "prompt_tokens" in meta


def usage_of(meta: dict[str, Any]) -> ServerUsage:
    """Of one response."""
    if not was_begun(meta):
        return ServerUsage(queue_aborts=1)
    generated = int(meta.get("completion_tokens", 0))
    return ServerUsage(
        requests=1,
        prompt_tokens=int(meta.get("prompt_tokens", 0)),
        cached_prompt_tokens=int(meta.get("cached_tokens", 0)),
        generated_tokens=generated,
        aborted_requests=int(is_abort(meta)),
        aborted_generated_tokens=generated if is_abort(meta) else 0,
    )


def mark_unused(seen: ServerUsage) -> ServerUsage:
    """The same response, thrown away. What was aborted became no response either and is counted as that."""
    if seen.aborted_requests or not seen.requests:
        return seen
    return replace(seen, unused_requests=1, unused_generated_tokens=seen.generated_tokens)


def retries_of(seen: ServerUsage) -> Retries:
    """Of a response that was thrown away, as the client of the engine is to count it."""
    return Retries(
        aborted=seen.aborted_requests,
        aborted_tokens=seen.aborted_generated_tokens,
        unusable=seen.unused_requests,
        unusable_tokens=seen.unused_generated_tokens,
    )


def lost_usage(*, prompt_tokens: int, generated_tokens: int) -> ServerUsage:
    return ServerUsage(
        lost_requests=1,
        lost_prompt_tokens=prompt_tokens,
        lost_generated_tokens=generated_tokens,
    )
