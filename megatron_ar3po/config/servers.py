"""Section `servers`: the SGLang servers that sample."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from megatron_ar3po.config.at_resume import Free, Warn
from megatron_ar3po.config.paths import PassedThrough
from megatron_ar3po.config.ranges import (
    COUNT,
    COUNT_OR_0,
    SECONDS,
    SECONDS_OR_0,
    Range,
    check_values,
)
from megatron_ar3po.config.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class ServersConfig:
    """The SGLang servers that sample: how many, where, and how long they are waited for."""

    max_concurrent_requests: Free[Annotated[int, COUNT_OR_0]] = 0
    """Requests in flight at each server. 0: as many of full length as its KV cache holds, so that no server has to
    retract one."""

    requests: Free[Literal["single", "stage", "step"]] = "step"
    """How many responses one HTTP call asks a server for. `single`: one. `stage`: those of a prompt's stage. `step`:
    whatever is let out at the same moment, so the first stages of all prompts for which there are slots; the fastest
    of the three (docs/performance.md). Whatever it is, each response has its own seed, id, time limit and tries, and is
    graded when the server has it. Behind a router (`servers.routing=global`), which takes no others, it is always
    `single`."""

    routing: Free[Literal["local", "global"]] = "local"
    """`local`: a replica samples from its own servers. `global`: one sglang-router stands before the servers of all
    replicas, so that the hard prompts of one use the idle GPUs of another; needs sglang-router."""

    servers_per_replica: Free[Annotated[int, Range(ge=1, le=1024)]] = 1
    """SGLang servers beside each replica, spread evenly over its nodes; those of a node share the replica's GPUs
    there. A server never spans nodes."""

    urls: Free[list[str]] = field(default_factory=list[str])
    """Servers that run already, one for each the run would start, replica by replica; whoever started them ends them.
    Empty: the run starts its own."""

    start_timeout_s: Free[Annotated[float, SECONDS_OR_0]] = 0.0
    """Seconds that a server may load, from the moment that it may take memory until it is ready, kernels compiled and
    CUDA graphs captured; as long again, before, for what is left of its imports when its turn has come. 0: 600 on a
    CPU, 1500 on a GPU, where a model of 65 GB may come from a cold file system. Raise it where the first start on a
    node is slower, and `run.collective_timeout_s` with it: the other ranks wait so long for the leader that waits."""

    request_timeout_s: Free[Annotated[float, SECONDS]] = 600.0
    """Seconds for one response, queueing included; then it is aborted and drawn again. Must exceed the time of a
    response of full length on a busy server."""

    hang_timeout_s: Free[Annotated[float, SECONDS_OR_0]] = 0.0
    """A server that has requests in flight and generates nothing for so many seconds is restarted. It is looked at
    four times within that time. 0: 120 on a CPU, 300 on a GPU, where a batch of a new shape may compile a kernel
    first."""

    max_retries: Free[Annotated[int, COUNT_OR_0]] = 2
    """How often one lost request is sent again, to a restarted or another server, before the run ends."""

    max_server_restarts: Free[Annotated[int, COUNT_OR_0]] = 3
    """How often each server, and the router, is restarted in a run; then the run ends with the last lines of its
    log."""

    port: Free[Annotated[int, Range(ge=0, le=65535)]] = 0
    """Port of the first server; the others count up from it. A port in use is an error. 0: free ones from the system,
    so that runs do not collide."""

    max_total_tokens: Free[Annotated[int, COUNT]] = 65536
    """KV cache of each server in tokens, on a CPU. On a GPU `servers.sglang.mem_fraction_static` rules."""

    sglang: Warn[PassedThrough] = field(default_factory=dict[str, Any])
    """Further options of each server under the names of SGLang's ServerArgs, as in
    `servers.sglang.mem_fraction_static=0.7`. One that this SGLang does not know, or that the run sets itself, is
    refused."""

    def __post_init__(self) -> None:
        check_values("servers", self)
        share = self.sglang.get("mem_fraction_static", 0.5)
        require(
            isinstance(share, int | float) and 0 < share < 1,
            f"servers.sglang.mem_fraction_static={share!r} is no share of a GPU's memory; use a number above 0 and "
            "below 1.",
        )
        for url in self.urls:
            require(
                re.fullmatch(r"https?://[^/\s]+/?", url) is not None,
                f"servers.urls={self.urls}: {url} is no server; write http://HOST:PORT.",
            )
