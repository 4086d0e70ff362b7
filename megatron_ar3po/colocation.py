"""Accelerator memory changes hands here and nowhere else.

| phase     | server: weights | server: KV cache | actor: weights | actor: gradients, optimizer |
|-----------|-----------------|------------------|----------------|-----------------------------|
| `start`   | at its gate     | at its gate      | GPU            | GPU                         |
| `rollout` | GPU             | GPU              | host           | -, host                     |
| `train`   | released        | released         | GPU            | GPU                         |
| `sync`    | GPU             | released         | GPU            | -, host                     |
| `save`    | GPU             | released         | GPU            | -, GPU                      |

(`PHASES` is this table, and `ar3po plan` adds up what it says. Gradients are freed and come back as zeros; nothing of
them is copied. With `colocation.keep_actor_weights` the actor's weights stay during rollouts too.)

A phase says who holds the memory from here on, and lasts until another is entered; nothing is undone at its end. So
`enter_rollout_phase()` and its siblings are plain calls, and an evaluation after a rollout moves nothing. Who lets go
does so on all ranks before anyone takes.

A server starts beside a parked actor only, since it divides the memory that it finds free. It is started early, imports
behind its gate, and is admitted when the actor is parked: at the start of a run once the actor is built, or has loaded
its checkpoint, and for a server that died while nobody sampled from it before the next publish. A server that someone
else started has no gate and sleeps meanwhile.

The same lines run without an accelerator. Gates and sleeping servers are real there too; what has no bytes to move is
said in `servers.control`, `actor.buffer_memory` and `actor.host_copies`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from megatron_ar3po.interfaces import Actor, SleepingServers
from megatron_ar3po.observability.timeline import Span, no_span

# Runs it on each replica's leader when all ranks have come; all ranks of the replica wait and get its result.
OnLeader = Callable[[Callable[[], Any]], Any]
Note = Callable[[str, str, Collection[str]], None]  # (phase, holder, what it holds)

SERVER_PARTS = frozenset({"weights", "kv_cache"})  # SGLang's tags
ACTOR_PARTS = frozenset({"weights", "gradients", "optimizer"})
_NOTHING = frozenset[str]()
_WEIGHTS = frozenset({"weights"})


@dataclass(frozen=True, slots=True)
class Holders:
    """What lies on the accelerator in a phase."""

    server: frozenset[str]
    actor: frozenset[str]


PHASES: Mapping[str, Holders] = {
    "start": Holders(_NOTHING, ACTOR_PARTS),
    "rollout": Holders(SERVER_PARTS, _NOTHING),
    "train": Holders(_NOTHING, ACTOR_PARTS),
    "sync": Holders(_WEIGHTS, _WEIGHTS),
    "save": Holders(_WEIGHTS, ACTOR_PARTS - {"gradients"}),
}


def holders(phase: str, *, keep_actor_weights: bool = False) -> Holders:
    """
    >>> sorted(holders("rollout", keep_actor_weights=True).actor)
    ['weights']
    """
    table = PHASES[phase]
    return replace(table, actor=table.actor | _WEIGHTS) if keep_actor_weights else table


class Colocation(Protocol):
    """What the loop says."""

    def enter_rollout_phase(self) -> None: ...

    def enter_train_phase(self) -> None: ...

    def enter_sync_phase(self) -> None: ...

    def enter_save_phase(self) -> None: ...


class StartingColocation(Colocation, Protocol):
    """And what the start of a run says before."""

    def enter_start_phase(self) -> None:
        """Collective, before the actor allocates: no server holds memory when it returns."""
        ...

    def admit_servers(self, actor: Actor) -> None:
        """Collective, once the actor stands as it is to begin: it is parked, and the servers start."""
        ...


class TakingTurns:
    """Actor and servers take turns on the same accelerators."""

    def __init__(
        self,
        servers: SleepingServers,
        on_leader: OnLeader,
        *,
        keep_actor_weights: bool = False,
        note: Note = lambda phase, holder, holds: None,
        span: Span = no_span,
    ) -> None:
        self._servers, self._on_leader = servers, on_leader
        self._keep_actor_weights = keep_actor_weights
        self._note = note
        self._span = span
        self._actor: Actor | None = None
        self._asleep = SERVER_PARTS

    def enter_start_phase(self) -> None:
        def hold_back() -> None:
            self._servers.hold_back(sorted(SERVER_PARTS))
            waiting = self._servers.at_gates
            for name in self._servers.names:
                self._note("start", name, ["gate"] if name in waiting else [])

        self._on_leader(hold_back)

    def admit_servers(self, actor: Actor) -> None:
        self._actor = actor
        self._note("start", "actor", actor.held)
        self._park("start")
        self._admit("start")

    def enter_rollout_phase(self) -> None:
        with self._span("turns"):
            self._enter("rollout")

    def enter_train_phase(self) -> None:
        """A server that is lost imports while the actor trains."""
        with self._span("turns"):
            self._restart_lost("train")
            self._enter("train")

    def enter_sync_phase(self) -> None:
        """The peak is two copies of the weights and a bucket. All ranks come to the same collectives, also those of a
        replica that has lost nothing: its actor has no reason to be parked."""
        with self._span("turns"):
            if self._restart_lost("sync"):
                self._park("sync")
            self._admit("sync")
            self._enter("sync")

    def enter_save_phase(self) -> None:
        """The servers keep the weights that they have: another publish would cost more than the room."""
        with self._span("turns"):
            self._enter("save")

    def _enter(self, phase: str) -> None:
        """Those who let go first."""
        held = holders(phase, keep_actor_weights=self._keep_actor_weights)
        asleep = SERVER_PARTS - held.server
        if to_sleep := sorted(asleep - self._asleep):
            self._change_servers(
                phase, self._asleep | asleep, lambda: self._servers.sleep(to_sleep)
            )
        self._hold(phase, held.actor)
        if to_wake := sorted(self._asleep - asleep):
            self._change_servers(phase, asleep, lambda: self._servers.wake(to_wake))

    def _change_servers(
        self, phase: str, asleep: frozenset[str], change: Callable[[], None]
    ) -> None:
        def change_and_note() -> None:
            change()
            for name in self._servers.names:
                if name not in self._servers.at_gates:
                    self._note(phase, name, SERVER_PARTS - asleep)

        self._on_leader(change_and_note)
        self._asleep = asleep

    def _hold(self, phase: str, parts: frozenset[str]) -> None:
        """This rank's part of the actor."""
        assert self._actor is not None, "admit_servers comes first"
        before = self._actor.held
        if "optimizer" in parts:
            self._actor.onload(gradients="gradients" in parts)
        else:
            self._actor.offload(keep_weights="weights" in parts)
        if self._actor.held != before:
            self._note(phase, "actor", self._actor.held)

    def _restart_lost(self, phase: str) -> bool:
        """Whether a server of this replica waits at its gate now."""

        def restart() -> bool:
            for name in self._servers.restart_lost():
                self._note(phase, name, ["gate"])
            return bool(self._servers.at_gates)

        return self._on_leader(restart)

    def _park(self, phase: str) -> None:
        """As in a rollout: a server that starts finds no more of the actor than that."""
        parked = holders("rollout", keep_actor_weights=self._keep_actor_weights)
        self._hold(phase, parked.actor)

    def _admit(self, phase: str) -> None:
        """Those that wait at their gates start, and go to sleep as far as the others. Nothing where none waits."""

        def admit() -> None:
            waiting = self._servers.at_gates
            for name in waiting:
                self._note(phase, name, SERVER_PARTS)
            self._servers.admit(sorted(self._asleep))
            for name in waiting:
                self._note(phase, name, SERVER_PARTS - self._asleep)

        self._on_leader(admit)


class ServersAlone:
    """There is no actor (`debug.mode=rollout_only`): the servers keep their memory and the weights that they loaded."""

    def __init__(self, servers: SleepingServers, on_leader: OnLeader) -> None:
        self._servers, self._on_leader = servers, on_leader

    def enter_start_phase(self) -> None:
        """Nobody needs room."""

    def admit_servers(self, actor: Actor) -> None:
        def admit() -> None:
            self._servers.admit(())
            self._servers.hold_back(())

        self._on_leader(admit)

    def enter_rollout_phase(self) -> None:
        """Nothing moves."""

    enter_train_phase = enter_save_phase = enter_rollout_phase

    def enter_sync_phase(self) -> None:
        def restart() -> None:
            self._servers.restart_lost()
            self._servers.admit(())

        self._on_leader(restart)
