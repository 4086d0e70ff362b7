"""Whom the others wait for, from what all ranks have written.

It follows from `num_collectives`, those over all ranks that a rank has come to: all ranks run the same loop, so those
with the fewest are behind, and of these the ones that do not wait themselves are the stragglers. A rank inside one of
Megatron's own collectives waits as well (`main_thread`). Whoever is silent, has failed, or has never written is named
however far it had come.

Not seen: who is late where a GPU's kernels wait for each other and each main thread waits for its GPU. A process that
stands still or is gone is named there too; of one that is merely late the stacks tell.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from megatron_ar3po.distributed.rank_status import (
    FAILED,
    FAILED_WAITING,
    RankStatus,
    host_name,
    read_statuses,
    state_of_process,
)

MAX_RANKS_NAMED = 4
ALL_RANKS = "all ranks"  # as `waits_for` says it
_SIGNALLED = f"{FAILED}: KeyboardInterrupt"  # torchrun ends the others so, once one has failed
_CLOCKS_DIFFER_S, _WAITED_LONG_S = 60.0, 20.0


def find_stragglers(
    statuses: Sequence[RankStatus], now: float, *, is_waited: bool = False
) -> list[RankStatus]:
    """Those that failed or are silent; and whom the others wait for: nobody when nobody waits, or when all that are
    behind wait themselves. `is_waited`: somebody has just given up waiting."""
    lost = {s.rank for s in statuses if s.is_silent(now) or _has_failed(s)}
    is_waited |= any(s.waits_for and s.rank not in lost for s in statuses)
    if is_waited:
        come = [s.num_collectives for s in statuses if not s.end]
        behind, ahead = min(come, default=0), max(come, default=0)
        lost |= {
            s.rank
            for s in statuses
            if s.num_collectives <= behind and (not s.waits_for or _is_left_behind(s, ahead))
        }
        lost |= {s.rank for s in statuses if s.end}
    return [s for s in statuses if s.rank in lost]


def _is_left_behind(status: RankStatus, ahead: int) -> bool:
    """It waits, as it says, in a collective of all ranks that others have left: so it has not moved since, or what it
    says is seconds old."""
    return status.waits_for == ALL_RANKS and status.num_collectives < ahead


def _causes_first(late: Sequence[RankStatus], now: float) -> list[RankStatus]:
    """Whoever stopped because of another rank is not told beside that one, and but the first where all have."""
    silent = [s for s in late if s.is_silent(now)]
    heard = [s for s in late if not s.is_silent(now)]
    failed = [s for s in heard if _has_failed(s)]
    own = [s for s in failed if not s.end.startswith((FAILED_WAITING, _SIGNALLED))]
    at_work = [s for s in heard if not _has_failed(s)]
    return [*own, *silent, *at_work] or sorted(failed, key=lambda s: s.written)[:1]


def describe_stragglers(statuses: Sequence[RankStatus], now: float) -> str:
    """One sentence for the person at whose run nothing moves."""
    waiting = [s for s in statuses if s.waits_for and not s.is_silent(now)]
    late = find_stragglers(statuses, now)
    named = name_ranks(statuses, late, now)
    verb = "ranks wait" if len(waiting) != 1 else "rank waits"
    if named and waiting:
        return f"{len(waiting)} {verb} for {named}"
    if named:
        return named
    if len(waiting) == len(statuses) and waiting:
        return f"{len(waiting)} {verb}, and nobody is behind: the network between the nodes, or a rank that just ended"
    if calling := [s for s in statuses if s.calls]:
        return name_ranks([], calling, now)
    if waiting:
        return f"{len(waiting)} {verb}, and nobody is behind"
    return "no rank waits for another"


def describe_slowest(statuses: Sequence[RankStatus]) -> str:
    """Who has waited least for the others since its first step, where they have waited far longer for it; else "". Of
    a slow node this tells over a run what a single look may miss."""
    waited = sorted(statuses, key=lambda status: status.waited_s)
    least, usual = waited[0], waited[len(waited) // 2].waited_s
    if usual < _WAITED_LONG_S or least.waited_s > usual / 2:
        return ""
    return (
        f"{least.who} has waited {least.waited_s:.0f} s for others since its first step, and half of the ranks "
        f"{usual:.0f} s or more: it is the slowest"
    )


def describe_phases(statuses: Sequence[RankStatus]) -> str:
    """As in "31 ranks are in step/train, 1 in step/batch: rank 9 (node2, pid 12)"; the most first."""
    groups: dict[str, list[RankStatus]] = {}
    for status in statuses:
        groups.setdefault(status.phase, []).append(status)
    (most, first), *rest = sorted(groups.items(), key=lambda item: -len(item[1]))
    if not rest:
        return "all ranks are there" if len(first) > 1 else "no other rank"
    told = [f"{len(first)} are in {most}"]
    told += [f"{len(group)} in {phase}: {group[0].who}" for phase, group in rest]
    return ", ".join(told)


def name_ranks(statuses: Sequence[RankStatus], late: Sequence[RankStatus], now: float) -> str:
    """`late`, and how many of all ranks have never written; "" where there are none of either."""
    late = _causes_first(late, now)
    named = [s.describe(now) for s in late[:MAX_RANKS_NAMED]]
    if len(late) > MAX_RANKS_NAMED:
        named.append(f"and {len(late) - MAX_RANKS_NAMED} more")
    if unknown := find_unknown(statuses):
        are = "have" if len(unknown) > 1 else "has"
        which = f" ({', '.join(map(str, unknown[:MAX_RANKS_NAMED]))})" if len(unknown) <= 4 else ""
        named.append(
            f"{len(unknown)} rank{'s' * (len(unknown) > 1)}{which} that {are} never written"
        )
    return "; ".join(named)


def describe_end(folder: Path, started: float) -> str:
    """For the launcher on a node, whose ranks have all ended: who failed, who ended without a word, and who is silent
    elsewhere, whatever ended them: a library that aborts the process, the kernel that is out of memory. `started`: when
    it started them; what was written long before is of an earlier start."""
    now = time.time()
    statuses = [s for s in read_statuses(folder) if s.written > started - _CLOCKS_DIFFER_S]
    if not statuses:
        return "no rank has come so far as to write where it is"
    here = [s for s in statuses if s.host == host_name() and not s.end]
    gone = {s.rank for s in here if state_of_process(s.pid) in (None, "?")}
    statuses = [replace(s, is_missed=True) if s.rank in gone else s for s in statuses]
    return name_ranks(statuses, find_stragglers(statuses, now), now)


def find_unknown(statuses: Sequence[RankStatus]) -> list[int]:
    """The ranks that have never written."""
    there = {s.rank for s in statuses}
    return [r for r in range(statuses[0].world_size) if r not in there] if statuses else []


def _has_failed(status: RankStatus) -> bool:
    return status.end.startswith(FAILED)
