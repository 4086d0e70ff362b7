"""Accelerator memory changes hands here and nowhere else.

| phase           | SGLang weights | SGLang KV cache | actor weights | optimizer, grads |
|-----------------|----------------|-----------------|---------------|------------------|
| `rollout_phase` | GPU            | GPU             | CPU           | CPU              |
| `train_phase`   | released       | released        | GPU           | GPU              |
| `sync_phase`    | GPU            | released        | GPU           | CPU              |
| `save_phase`    | GPU            | released        | GPU           | GPU              |

A phase says who holds the memory from here on, and lasts until another is entered; nothing is undone at its end. So
`enter_rollout_phase()` and its siblings are plain calls, and an evaluation after a rollout moves nothing.

On a machine without an accelerator nothing needs to move: `SharedHostMemory` has the same four phases.

A server that died while nobody sampled from it is started anew on entering `sync_phase`: the publish that follows
gives it its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from megatron_ar3po.interfaces import Actor, SleepingServers

# Runs it on each replica's leader; all its ranks wait and get its result.
OnLeader = Callable[[Callable[[], Any]], Any]


class Colocation(Protocol):
    def enter_rollout_phase(self) -> None: ...

    def enter_train_phase(self) -> None: ...

    def enter_sync_phase(self) -> None: ...

    def enter_save_phase(self) -> None: ...


class SharedHostMemory:
    """No accelerator: actor and servers both live in the host's memory all the time."""

    def __init__(self, servers: SleepingServers, on_leader: OnLeader) -> None:
        self._servers = servers
        self._on_leader = on_leader

    def enter_rollout_phase(self) -> None:
        """Nothing moves."""

    enter_train_phase = enter_rollout_phase
    enter_save_phase = enter_rollout_phase

    def enter_sync_phase(self) -> None:
        self._on_leader(lambda: self._servers.revive_lost(()))


class ColocatedGpus:
    """Actor and servers take turns on the same GPUs. `on_leader` runs a task on each replica's leader and lets every
    rank wait for it, so that no rank allocates before the servers have let go."""

    def __init__(
        self,
        actor: Actor,
        servers: SleepingServers,
        on_leader: OnLeader,
    ) -> None:
        self._actor = actor
        self._servers = servers
        self._on_leader = on_leader
        self._asleep: frozenset[str] = frozenset()

    def enter_rollout_phase(self) -> None:
        self._actor.offload()
        self._let_sleep(frozenset())

    def enter_train_phase(self) -> None:
        self._let_sleep(frozenset({"weights", "kv_cache"}))
        self._actor.onload()

    def enter_sync_phase(self) -> None:
        """Weights first, KV cache last: the peak is two copies of the weights and a bucket. A server starts beside an
        actor that is offloaded, as at the beginning of a run."""
        if self._on_leader(self._servers.find_lost):
            self._actor.offload()
            self._on_leader(lambda: self._servers.revive_lost(sorted(self._asleep)))
        self._actor.offload(keep_weights=True)
        self._let_sleep(frozenset({"kv_cache"}))

    def enter_save_phase(self) -> None:
        """A checkpoint gathers the optimizer's state over the ranks, where their communication runs. The servers keep
        the weights that they have."""
        self._let_sleep(frozenset({"kv_cache"}))
        self._actor.onload()

    def _let_sleep(self, tags: frozenset[str]) -> None:
        to_wake, to_sleep = sorted(self._asleep - tags), sorted(tags - self._asleep)

        def change() -> None:
            if to_sleep:
                self._servers.sleep(to_sleep)
            if to_wake:
                self._servers.wake(to_wake)

        self._on_leader(change)
        self._asleep = tags
