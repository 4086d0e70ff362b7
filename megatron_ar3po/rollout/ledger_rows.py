"""The ledger's rows: what a prompt, an evaluation, a scoring and a process of a server come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from megatron_ar3po.sampling_cost import Spent
from megatron_ar3po.types import (
    CollectedStep,
    Response,
    ResponseGroup,
    ScoredResponse,
    Scoring,
    StepPrompt,
)
from megatron_ar3po.usage import NO_RETRIES, Retries, ServerBook, ServerCounters, ServerUsage

Row = dict[str, Any]

# The room that lost requests leave, by counter; what is not here is not held against anything.
ROOM = {
    "requests": "lost_requests",
    "prompt_tokens": "lost_prompt_tokens",
    "cached_prompt_tokens": "lost_prompt_tokens",
    "generated_tokens": "lost_generated_tokens",
}


def intent_row(
    prompts: Sequence[StepPrompt], *, step: int, policy_version: int, most_of_a_prompt: Spent
) -> Row:
    """`most_of_a_prompt`: responses and tokens that it can get in a step."""
    return {
        "kind": "intent",
        "step": step,
        "policy_version": policy_version,
        "prompts": len(prompts),
        "positions": [p.position for p in prompts],
        "responses_max": len(prompts) * most_of_a_prompt.responses,
        "response_tokens_max": len(prompts) * most_of_a_prompt.tokens,
    }


def prompt_rows(collected: CollectedStep, *, step: int, policy_version: int) -> list[Row]:
    """One for each prompt of the step, discarded ones included."""
    return [
        prompt_row(
            group,
            step=step,
            policy_version=policy_version,
            is_discarded=is_discarded,
            restored=collected.restored,
        )
        for is_discarded, groups in ((False, collected.groups), (True, collected.discarded))
        for group in groups
    ]


def prompt_row(
    group: ResponseGroup,
    *,
    step: int,
    policy_version: int,
    is_discarded: bool,
    restored: frozenset[str] = frozenset(),
) -> Row:
    """`responses` and `response_tokens` are all that servers have generated for it; the classes of `sampling_cost` are
    parts of them. `restored`: ids of responses that the response log has given back."""
    sampled = [scored.response for scored in group.sampled]
    of_log = [scored for scored in group.sampled if scored.response.response_id in restored]
    generated = generated_by(group.sampled)
    return {
        "kind": "prompt",
        "step": step,
        "position": group.position,
        "prompt_id": group.prompt.prompt_id,
        **({"source": group.prompt.source} if group.prompt.source else {}),
        "policy_version": policy_version,
        "outcome": outcome(group),
        "stop_reason": group.stop_reason,
        "discarded": is_discarded,
        "stages": group.num_stages,
        "responses": generated.responses,
        "correct": sum(scored.is_correct for scored in group.responses),
        "ungradable": sum(s.verdict.status == "ungradable" for s in group.responses),
        "prompt_tokens": len(group.prompt.token_ids) * generated.responses,
        "cached_prompt_tokens": sum(r.num_cached_tokens for r in sampled),
        "response_tokens": generated.tokens,
        "truncated": sum(r.finish_reason == "length" for r in sampled),
        **_apart(group),
        **_fields("restored", generated_by(of_log)),
        "request_s": round(sum(r.elapsed_s for r in sampled), 4),
        "servers": sorted({r.server for r in sampled}),
    }


def evaluation_row(
    answers: Sequence[Sequence[ScoredResponse]], *, step: int, policy_version: int
) -> Row:
    """`answers`: of each prompt."""
    scored = [one for answer in answers for one in answer]
    generated = generated_by(scored)
    return {
        "kind": "evaluation",
        "step": step,
        "policy_version": policy_version,
        "prompts": len(answers),
        "responses": generated.responses,
        "response_tokens": generated.tokens,
        **_drawn_again(scored),
    }


def scoring_row(
    scorings: Sequence[Scoring], *, prompt_tokens: int, step: int, policy_version: int
) -> Row:
    return {
        "kind": "scoring",
        "step": step,
        "policy_version": policy_version,
        "responses": len(scorings),
        "tokens": sum(len(scoring.logprobs) for scoring in scorings),
        "prompt_tokens": prompt_tokens,
        "cached_prompt_tokens": sum(scoring.num_cached_tokens for scoring in scorings),
        "request_s": round(sum(scoring.elapsed_s for scoring in scorings), 4),
    }


def server_row(book: ServerBook, *, step: int, session: int) -> Row:
    """`session`: how often the run had been started before, so that two processes of one name are told apart."""
    assert book.theirs is not None
    return {
        "kind": "server",
        "step": step,
        "server": book.server,
        "restarts": book.restarts,
        "session": session,
        **asdict(book.theirs),
        "lost_requests": book.ours.lost_requests,
    }


def lost_server_row(book: ServerBook, reported: ServerCounters, *, step: int, session: int) -> Row:
    """What a dead process answered since it last reported is known from its answers; what it did for requests that it
    took along lies between nothing and their limits. A later row for the same process replaces this one."""
    row: Row = {
        "kind": "lost_server",
        "step": step,
        "server": book.server,
        "restarts": book.restarts,
        "session": session,
    }
    for name, room in ROOM.items():
        answered = getattr(book.ours, name)
        row[name] = answered
        row[f"unreported_{name}_min"] = answered - getattr(reported, name)
        row[f"unreported_{name}_max"] = row[f"unreported_{name}_min"] + getattr(book.ours, room)
    return row


def outcome(group: ResponseGroup) -> str:
    """How sampling ended for a prompt, before anything is borrowed; unsolved ones say why, if known. Only the graded
    responses have a say."""
    graded = [scored for scored in group.responses if scored.response.finish_reason != "abort"]
    correct = [scored.is_correct for scored in graded]
    if any(correct):
        return "all_correct" if all(correct) else "mixed"
    if not graded:
        return "verifier_error" if group.errored else "cancelled"
    if all(scored.response.finish_reason == "length" for scored in graded):
        return "truncated"
    return "all_wrong"


def generated_by(scored: Iterable[ScoredResponse]) -> Spent:
    """On behalf of these responses: themselves, and what was drawn again for them."""
    responses = [one.response for one in scored]
    return Spent(
        responses=sum(r.num_generated for r in responses),
        tokens=sum(r.num_generated_tokens for r in responses),
    )


def usage_of_responses(scored: Iterable[ScoredResponse]) -> ServerUsage:
    """The same, as the servers and their client count it."""
    responses = [one.response for one in scored]
    cut_off = [r for r in responses if r.finish_reason == "abort" and r.was_begun]
    usage = ServerUsage(
        requests=sum(r.was_begun for r in responses),
        generated_tokens=sum(r.num_tokens for r in responses),
        aborted_requests=len(cut_off),
        aborted_generated_tokens=sum(r.num_tokens for r in cut_off),
    )
    return usage + usage_of_retries(sum_retries(responses))


def sum_retries(answers: Iterable[Response | Scoring]) -> Retries:
    """Hardly any has some: a step of thousands is summed up in no time."""
    return sum((a.retries for a in answers if a.retries is not NO_RETRIES), NO_RETRIES)


def usage_of_retries(retries: Retries) -> ServerUsage:
    return ServerUsage(
        requests=retries.requests,
        generated_tokens=retries.tokens,
        aborted_requests=retries.aborted,
        aborted_generated_tokens=retries.aborted_tokens,
        unused_requests=retries.unusable,
        unused_generated_tokens=retries.unusable_tokens,
    )


def usage_of_scorings(scorings: Sequence[Scoring]) -> ServerUsage:
    return ServerUsage(requests=len(scorings)) + usage_of_retries(sum_retries(scorings))


def _apart(group: ResponseGroup) -> Row:
    """Of a prompt's responses those that nobody graded, class by class."""
    cut_off = [scored for scored in group.sampled if scored.response.finish_reason == "abort"]
    ungraded = [scored for scored in group.left_out if scored.response.finish_reason != "abort"]
    return {
        **_fields("cancelled", _without_retries(cut_off)),
        **_fields("ungraded", _without_retries(ungraded)),
        **_drawn_again(group.sampled),
    }


def _without_retries(scored: Iterable[ScoredResponse]) -> Spent:
    responses = [one.response for one in scored]
    return Spent(
        responses=sum(r.was_begun for r in responses), tokens=sum(r.num_tokens for r in responses)
    )


def _drawn_again(scored: Iterable[ScoredResponse]) -> Row:
    retries = sum_retries(one.response for one in scored)
    return {
        **_fields("aborted", Spent(responses=retries.aborted, tokens=retries.aborted_tokens)),
        **_fields("unusable", Spent(responses=retries.unusable, tokens=retries.unusable_tokens)),
    }


def _fields(name: str, spent: Spent) -> Row:
    return {name: spent.responses, f"{name}_tokens": spent.tokens}
