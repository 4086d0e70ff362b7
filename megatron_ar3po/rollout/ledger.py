"""`Ledger`: what every prompt cost, as rows of JSON, held against the servers' own counters.

    RUN/ledger/dp00.jsonl
    {"kind": "prompt", "step": 3, "position": 0, "prompt_id": ..., "stages": 2, "responses": 8, "outcome": "mixed", ...}
    {"kind": "evaluation", "policy_version": 0, "prompts": 256, "responses": 1024, ...}
    {"kind": "server", "step": 3, "server": "dp0.s0", "restarts": 0, "requests": 512, ...}

Promises: one row for each prompt and step, discarded ones included; evaluation is a class of its own; after each step
the requests and tokens that this replica counted equal those that its servers counted, to the last one, or the run ends
with both numbers. Only requests that were lost on the way leave room for a difference, and their number bounds it.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_ar3po.rollout.sglang_client import ServerUsage, SglangEngine
from megatron_ar3po.types import CollectedStep, ResponseGroup, ScoredResponse

# Counters of SGLang's tokenizer manager, per finished request. A health check is not among them.
_COUNTERS = {
    "sglang:num_requests_total": "requests",
    "sglang:prompt_tokens_total": "prompt_tokens",
    "sglang:generation_tokens_total": "generated_tokens",
}
_TIMEOUT_S = 30.0

ServerRow = tuple[str, int, ServerUsage, ServerUsage]  # name, restarts, counted here, counted there


class LedgerError(RuntimeError):
    """The books do not balance."""


class Ledger:
    """Rows of one replica. `servers` says, for each server that runs, what was counted here and what there."""

    def __init__(self, path: Path, servers: Callable[[], Sequence[ServerRow]] = lambda: ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._servers = servers

    def record_step(self, collected: CollectedStep, *, step: int, policy_version: int) -> None:
        rows = [
            prompt_row(group, step=step, policy_version=policy_version, is_discarded=is_discarded)
            for is_discarded, groups in ((False, collected.groups), (True, collected.discarded))
            for group in groups
        ]
        self._append(rows)
        self.reconcile(step=step)

    def record_evaluation(
        self, answers: Sequence[Sequence[ScoredResponse]], *, policy_version: int
    ) -> None:
        responses = [scored.response for answer in answers for scored in answer]
        row = {
            "kind": "evaluation",
            "policy_version": policy_version,
            "prompts": len(answers),
            "responses": len(responses),
            "response_tokens": sum(r.num_tokens for r in responses),
        }
        self._append([row])

    def reconcile(self, *, step: int) -> None:
        """Between rollouts, when no request is in flight."""
        rows: list[dict[str, Any]] = []
        for name, restarts, ours, theirs in self._servers():
            check_balance(name, ours, theirs)
            rows.append(
                {
                    "kind": "server",
                    "step": step,
                    "server": name,
                    "restarts": restarts,
                    "requests": theirs.requests,
                    "prompt_tokens": theirs.prompt_tokens,
                    "cached_prompt_tokens": ours.cached_prompt_tokens,
                    "generated_tokens": theirs.generated_tokens,
                    "lost_requests": ours.lost_requests,
                }
            )
        self._append(rows)

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def prompt_row(
    group: ResponseGroup, *, step: int, policy_version: int, is_discarded: bool
) -> dict[str, Any]:
    responses = [scored.response for scored in group.responses]
    return {
        "kind": "prompt",
        "step": step,
        "position": group.position,
        "prompt_id": group.prompt.prompt_id,
        "policy_version": policy_version,
        "outcome": outcome(group),
        "discarded": is_discarded,
        "stages": group.num_stages,
        "responses": len(responses),
        "prompt_tokens": len(group.prompt.token_ids) * len(responses),
        "cached_prompt_tokens": sum(r.num_cached_tokens for r in responses),
        "response_tokens": sum(r.num_tokens for r in responses),
        "truncated": sum(r.finish_reason == "length" for r in responses),
        "request_s": round(sum(r.elapsed_s for r in responses), 4),
        "servers": sorted({r.server for r in responses}),
    }


def outcome(group: ResponseGroup) -> str:
    """How sampling ended for a prompt, before anything is borrowed; unsolved ones say why, if known."""
    correct = [scored.is_correct for scored in group.responses]
    if any(correct):
        return "all_correct" if all(correct) else "mixed"
    if any(scored.verdict.status in ("error", "timeout") for scored in group.responses):
        return "verifier_error"
    if all(scored.response.finish_reason == "length" for scored in group.responses):
        return "truncated"
    return "all_wrong"


def check_balance(server: str, ours: ServerUsage, theirs: ServerUsage) -> None:
    """A lost request is one that the server may have finished without us reading its answer."""
    if ours.lost_requests:
        missing = theirs.requests - ours.requests
        is_balanced = 0 <= missing <= ours.lost_requests
    else:
        is_balanced = all(
            getattr(theirs, name) == getattr(ours, name) for name in _COUNTERS.values()
        )
    if not is_balanced:
        both = ", ".join(
            f"{name} {getattr(ours, name)} here and {getattr(theirs, name)} there"
            for name in _COUNTERS.values()
        )
        raise LedgerError(
            f"server {server} counted other work than this run ({both}; {ours.lost_requests} requests were lost). "
            "Either someone else uses the server, or responses were lost or counted twice."
        )


def server_rows(engine: SglangEngine) -> list[ServerRow]:
    """Of the processes that run now. What a process counted before it died is lost with it."""
    return [
        (
            server.name,
            server.num_restarts,
            engine.usage.get((server.name, server.num_restarts), ServerUsage()),
            read_counters(server.url),
        )
        for server in engine.servers
    ]


def read_counters(url: str) -> ServerUsage:
    """SGLang's Prometheus page -> what this process of the server has finished since it started."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=_TIMEOUT_S)
    try:
        connection.request(
            "GET", "/metrics/"
        )  # without the slash the server answers with a redirect
        page = connection.getresponse().read().decode()
    finally:
        connection.close()
    return parse_counters(page)


def parse_counters(page: str) -> ServerUsage:
    """Sums over labels. A counter that was never raised is not on the page.

    >>> parse_counters('sglang:num_requests_total{is_streaming="false"} 2.0').requests
    2
    """
    totals = dict.fromkeys(_COUNTERS.values(), 0)
    for line in page.splitlines():
        name, _, rest = line.partition("{")
        if name in _COUNTERS:
            totals[_COUNTERS[name]] += int(float(rest.rpartition("}")[2].split()[0]))
    return ServerUsage(**totals)
