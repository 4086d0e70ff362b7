"""The servers' own counters, and the accounts of a run beside them: one `ServerBook` for each process of a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megatron_ar3po.http_client import HttpError, request
from megatron_ar3po.servers.server import Server
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.usage import (
    NOBODY,
    LedgerError,
    Process,
    ServerBook,
    ServerCounters,
    ServerUsage,
    Usage,
)

# Counters of SGLang 0.5.23, summed over their labels; a health check raises none of them.
_COUNTERS = {
    "sglang:num_requests_total": "requests",
    "sglang:prompt_tokens_total": "prompt_tokens",
    "sglang:cached_tokens_total": "cached_prompt_tokens",
    "sglang:generation_tokens_total": "generated_tokens",
    "sglang:num_aborted_requests_total": "abort_calls",
    "sglang:num_retracted_requests_total": "retracted_requests",
    "sglang:num_retracted_input_tokens_total": "retracted_prompt_tokens",
    "sglang:num_retracted_output_tokens_total": "retracted_generated_tokens",
}
_TIMEOUT_S = 30.0


def server_books(
    engine: SglangEngine,
    clients: Sequence[Usage] | None = None,
    *,
    before: Mapping[str, ServerCounters] | None = None,
) -> list[ServerBook]:
    """Of every process that this engine's servers have been; those that still run are asked for their counters.
    `clients`: the usage of every engine that samples from them, its own included; a request that none of them can
    place may have been for any server and leaves its room at each. `before`: by server, what those counted that ran
    before this run."""
    books = []
    usage = sum_usage([engine.usage] if clients is None else clients)
    nobody = usage.pop(NOBODY, ServerUsage())
    current = {server.name: server for server in engine.servers}
    keys = dict.fromkeys([*usage, *((s.name, s.num_restarts) for s in engine.servers)])
    for name, restarts in keys:
        if name not in current:
            continue  # another replica's, which closes its books
        server = current[name]
        theirs = current_counters(server) if restarts == server.num_restarts else None
        if theirs is not None and before and name in before:
            theirs -= before[name]
        ours = usage.get((name, restarts), ServerUsage()) + nobody
        books.append(ServerBook(server=name, restarts=restarts, ours=ours, theirs=theirs))
    return books


def sum_usage(clients: Sequence[Usage]) -> dict[Process, ServerUsage]:
    total: dict[Process, ServerUsage] = {}
    for client in clients:
        for process, usage in client.items():
            total[process] = total.get(process, ServerUsage()) + usage
    return total


def current_counters(server: Server) -> ServerCounters | None:
    """None for a server that died since its last response; one that runs must answer."""
    try:
        return read_counters(server.url)
    except HttpError as error:
        if not server.is_running():
            return None
        raise LedgerError(
            f"server {server.name} runs, but does not tell its counters ({error}), so the "
            f"ledger cannot be closed. {server.log_tail()}"
        ) from error


def read_counters(url: str) -> ServerCounters:
    """SGLang's Prometheus page -> what this process of the server has finished since it started."""
    # without the last slash the server answers with a redirect
    return parse_counters(request("GET", url + "/metrics/", timeout_s=_TIMEOUT_S).text)


def parse_counters(page: str) -> ServerCounters:
    """Sums over labels. A counter that was never raised is not on the page.

    >>> parse_counters('sglang:num_requests_total{is_streaming="false"} 2.0').requests
    2
    """
    totals = dict.fromkeys(_COUNTERS.values(), 0)
    for line in page.splitlines():
        name, _, rest = line.partition("{")
        if name in _COUNTERS:
            totals[_COUNTERS[name]] += int(float(rest.rpartition("}")[2].split()[0]))
    return ServerCounters(**totals)
