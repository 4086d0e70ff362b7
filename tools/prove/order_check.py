"""Who takes memory when. The real actor and the real table, with a stand-in for the servers that takes device memory as
one does: behind its gate none, then weights and a share of whatever it finds free, in the same places until it ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from megatron_ar3po.colocation import ACTOR_PARTS, PHASES, SERVER_PARTS, TakingTurns
from prove.actor_checks import GIB, update
from prove.actors import make_actor, one_process
from prove.findings import Finding
from prove.stand import Stand

Note = tuple[str, str, frozenset[str]]  # (phase, holder, what it holds)
GATE = frozenset({"gate"})
ACTOR_ALONE = ACTOR_PARTS - {"weights"}  # no KV cache beside these
CPU_FREE_BYTES = 1_000_000  # what the stand-in is told to have found where there is no device
FREE_SHARE = {"weights": 0.1, "kv_cache": 0.75}


class StandInServers:
    """`SleepingServers`, of one server."""

    def __init__(self, device: str) -> None:
        self.names = ["server"]
        self.at_gates = ["server"]
        self.sizes: dict[str, int] = {}
        self._device = device
        self._held: dict[str, torch.Tensor] = {}

    def hold_back(self, tags: Sequence[str]) -> None:
        """It waits at its gate already."""

    def admit(self, asleep: Sequence[str]) -> None:
        if self.at_gates:
            self.at_gates = []
            free = torch.cuda.mem_get_info()[0] if self._device == "cuda" else CPU_FREE_BYTES
            self.sizes = {tag: int(free * share) for tag, share in FREE_SHARE.items()}
            self.wake(sorted(self.sizes))
            self.sleep(asleep)

    def wake(self, tags: Sequence[str]) -> None:
        for tag in tags:
            self._held[tag] = torch.ones(self.sizes[tag], dtype=torch.uint8, device=self._device)

    def sleep(self, tags: Sequence[str]) -> None:
        for tag in tags:
            del self._held[tag]
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def restart_lost(self) -> list[str]:
        return []


def order_of_allocations(stand: Stand) -> Finding:
    """Two steps from the start of a run, saves included: nobody takes before another has let go, and each phase ends
    with the table's holders. The stand-in's memory is the device's: out of it is out of memory."""
    notes: list[Note] = []

    def note(phase: str, holder: str, holds: Collection[str]) -> None:
        notes.append((phase, holder, frozenset(holds)))

    with one_process():
        servers = StandInServers(stand.device)
        colocation = TakingTurns(servers, lambda task: task(), note=note)
        colocation.enter_start_phase()
        actor = make_actor(stand, stand.part)
        colocation.admit_servers(actor)
        colocation.enter_sync_phase()
        for seed in range(2):
            colocation.enter_rollout_phase()
            colocation.enter_train_phase()
            update(stand, actor, seed)
            colocation.enter_sync_phase()
            colocation.enter_save_phase()
    finding = judge_order(notes)
    if not stand.on_gpu:
        return finding
    found = sum(servers.sizes.values()) / GIB
    return Finding(f"{finding.figure}; server of {found:.0f} GiB", finding.facts, finding.problem)


def judge_order(notes: Sequence[Note]) -> Finding:
    """`notes` as memory changed hands. The gate is no memory."""
    now: dict[str, frozenset[str]] = {}
    problem = ""
    for number, (phase, holder, holds) in enumerate(notes):
        before = now.get(holder, frozenset())
        now[holder] = holds - GATE
        servers = frozenset[str]().union(*(h for name, h in now.items() if name != "actor"))
        actor = now.get("actor", frozenset())
        is_last = number + 1 == len(notes) or notes[number + 1][0] != phase
        if holder != "actor" and not before and holds == SERVER_PARTS and actor - {"weights"}:
            problem = f"{holder} starts beside an actor that holds {', '.join(sorted(actor))}"
        elif "kv_cache" in servers and actor & ACTOR_ALONE:
            problem = "a KV cache lies beside gradients or the optimizer"
        elif is_last and phase != "start" and (servers, actor) != table_row(phase):
            problem = f"servers hold {sorted(servers)} and the actor {sorted(actor)}"
        if problem:
            problem = f"phase {phase}, change {number + 1}: {problem}"
            break
    phases = [phase for i, (phase, *_) in enumerate(notes) if not i or notes[i - 1][0] != phase]
    if not problem and not {"start", "rollout", "train", "sync"} <= set(phases):
        problem = f"only the phases {', '.join(phases) or 'none'} were entered"
    return Finding(
        f"{len(notes)} changes in {len(phases)} phases",
        {"notes": [[phase, holder, sorted(holds)] for phase, holder, holds in notes]},
        problem,
    )


def table_row(phase: str) -> tuple[frozenset[str], frozenset[str]]:
    return PHASES[phase].server, PHASES[phase].actor
