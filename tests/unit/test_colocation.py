"""Who is told what, in which order. That it is so in a whole run is in e2e/test_memory_order.py."""

from megatron_ar3po.colocation import (
    ACTOR_PARTS,
    PHASES,
    SERVER_PARTS,
    ServersAlone,
    TakingTurns,
    holders,
)


class Recorder:
    """Actor and servers at once: writes down who is told what, in order."""

    def __init__(self, *, at_gates: bool = True) -> None:
        self.calls: list[str] = []
        self.names = ["dp0.s0", "dp0.s1"]
        self.at_gates = list(self.names) if at_gates else []
        self.lost: list[str] = []
        self.held = ACTOR_PARTS

    def offload(self, *, keep_weights: bool = False) -> None:
        self.calls.append("actor offload, weights stay" if keep_weights else "actor offload")
        self.held = frozenset({"weights"}) if keep_weights else frozenset()

    def onload(self, *, gradients: bool = True) -> None:
        self.calls.append("actor onload" if gradients else "actor onload, no gradients")
        self.held = ACTOR_PARTS if gradients else ACTOR_PARTS - {"gradients"}

    def hold_back(self, tags) -> None:
        self.calls.append(f"hold back {'+'.join(tags)}".rstrip())

    def sleep(self, tags) -> None:
        self.calls.append(f"sleep {'+'.join(tags)}")

    def wake(self, tags) -> None:
        self.calls.append(f"wake {'+'.join(tags)}")

    def restart_lost(self) -> list[str]:
        lost, self.lost = self.lost, []
        if lost:
            self.calls.append(f"restart {lost} behind their gates")
        self.at_gates += lost
        return lost

    def admit(self, asleep) -> None:
        if not self.at_gates:
            return
        self.calls.append(f"admit {self.at_gates}, then sleep {'+'.join(asleep) or 'nothing'}")
        self.at_gates = []

    def said_by(self, *steps) -> list[str]:
        """Of calls in turn: what each of them said to whom."""
        for step in steps:
            self.calls.append(f"-- {step.__name__}")
            step()
        calls, self.calls = self.calls, []
        return calls


def begin(
    *, keep_actor_weights: bool = False, at_gates: bool = True, on_leader=lambda task: task()
) -> tuple[Recorder, TakingTurns, list]:
    """At the first publish."""
    told, notes = Recorder(at_gates=at_gates), []
    colocation = TakingTurns(
        told,
        on_leader,
        keep_actor_weights=keep_actor_weights,
        note=lambda phase, holder, holds: notes.append((phase, holder, frozenset(holds))),
    )
    colocation.enter_start_phase()
    told.calls.append("the actor is built")
    colocation.admit_servers(told)  # type: ignore[arg-type]
    return told, colocation, notes


def test_servers_start_beside_a_parked_actor_and_not_before():
    told, colocation, _ = begin()
    assert told.said_by(colocation.enter_sync_phase) == [
        "hold back kv_cache+weights",
        "the actor is built",
        "actor offload",
        "admit ['dp0.s0', 'dp0.s1'], then sleep kv_cache+weights",
        *("-- enter_sync_phase", "actor offload, weights stay", "wake weights"),
    ]


def test_a_step_hands_memory_over_in_the_order_of_the_table():
    told, colocation, _ = begin()
    told.said_by(colocation.enter_sync_phase)
    assert told.said_by(
        colocation.enter_rollout_phase,
        colocation.enter_train_phase,
        colocation.enter_sync_phase,
        colocation.enter_rollout_phase,
    ) == [
        *("-- enter_rollout_phase", "actor offload", "wake kv_cache"),
        *("-- enter_train_phase", "sleep kv_cache+weights", "actor onload"),
        *("-- enter_sync_phase", "actor offload, weights stay", "wake weights"),
        *("-- enter_rollout_phase", "actor offload", "wake kv_cache"),
    ]


def test_what_is_noted_in_a_phase_is_what_the_table_says():
    _, colocation, notes = begin()
    enter = {
        "sync": colocation.enter_sync_phase,
        "rollout": colocation.enter_rollout_phase,
        "train": colocation.enter_train_phase,
        "save": colocation.enter_save_phase,
    }
    assert {*enter, "start"} == set(PHASES)
    for phase in ("sync", "rollout", "train", "sync", "save", "rollout", "save", "sync"):
        enter[phase]()
        held = {holder: parts for _, holder, parts in notes}
        assert held == {
            "actor": PHASES[phase].actor,
            "dp0.s0": PHASES[phase].server,
            "dp0.s1": PHASES[phase].server,
        }


def test_weights_that_are_kept_stay_while_servers_start_and_sample_and_move_nowhere():
    told, colocation, _ = begin(keep_actor_weights=True)
    calls = told.said_by(
        colocation.enter_sync_phase, colocation.enter_rollout_phase, colocation.enter_train_phase
    )
    assert "actor offload" not in calls
    assert holders("rollout", keep_actor_weights=True).actor == {"weights"}
    assert holders("rollout", keep_actor_weights=True).server == SERVER_PARTS
    for phase in PHASES.keys() - {"rollout"}:
        assert holders(phase, keep_actor_weights=True) == PHASES[phase]


def test_a_checkpoint_after_an_evaluation_finds_the_whole_actor_and_servers_keep_their_weights():
    """Saved where evaluation leaves the actor, it would hold memory that has been given away."""
    told, colocation, _ = begin()
    told.said_by(colocation.enter_sync_phase, colocation.enter_rollout_phase)
    assert told.said_by(colocation.enter_save_phase)[1:] == [
        "sleep kv_cache",
        "actor onload, no gradients",
    ]
    assert told.said_by(colocation.enter_rollout_phase)[1:] == ["actor offload", "wake kv_cache"]


def test_an_evaluation_after_a_rollout_moves_nothing_twice():
    told, colocation, _ = begin()
    told.said_by(colocation.enter_sync_phase, colocation.enter_rollout_phase)
    # it does nothing when it is offloaded already
    assert told.said_by(colocation.enter_rollout_phase)[1:] == ["actor offload"]


def test_a_server_that_is_lost_before_training_imports_meanwhile_and_waits_for_a_parked_actor():
    told, colocation, notes = begin()
    told.said_by(colocation.enter_sync_phase, colocation.enter_rollout_phase)
    told.lost = ["dp0.s1"]
    assert told.said_by(colocation.enter_train_phase, colocation.enter_sync_phase) == [
        *("-- enter_train_phase", "restart ['dp0.s1'] behind their gates"),
        *("sleep kv_cache+weights", "actor onload", "-- enter_sync_phase", "actor offload"),
        *("admit ['dp0.s1'], then sleep kv_cache+weights", "actor offload, weights stay"),
        "wake weights",
    ]
    at_the_gate = notes.index(("train", "dp0.s1", frozenset({"gate"})))
    admitted = notes.index(("sync", "dp0.s1", SERVER_PARTS), at_the_gate)
    parked = notes.index(("sync", "actor", frozenset()), at_the_gate)
    assert at_the_gate < parked < admitted


def test_a_server_that_died_while_the_actor_trained_is_started_beside_an_offloaded_actor():
    told, colocation, _ = begin()
    told.said_by(
        colocation.enter_sync_phase, colocation.enter_rollout_phase, colocation.enter_train_phase
    )
    told.lost = ["dp0.s1"]
    assert told.said_by(colocation.enter_sync_phase)[1:] == [
        "restart ['dp0.s1'] behind their gates",
        "actor offload",
        "admit ['dp0.s1'], then sleep kv_cache+weights",
        "actor offload, weights stay",
        "wake weights",
    ]


def test_a_replica_that_lost_nothing_comes_to_as_many_collectives_as_one_that_did():
    """Each is one of all ranks: with one more here than there, ranks wait for each other at different ones. The actor
    of the replica that lost nothing is not parked for the other's server."""
    counts, told_of = [], []
    for lost in ([], ["dp0.s1"]):
        met = []

        def on_leader(task, met=met):
            met.append(None)
            return task()

        told, colocation, _ = begin(on_leader=on_leader)
        told.said_by(
            colocation.enter_sync_phase,
            colocation.enter_rollout_phase,
            colocation.enter_train_phase,
        )
        met.clear()
        told.lost = list(lost)
        told_of.append(told.said_by(colocation.enter_sync_phase)[1:])
        counts.append(len(met))
    assert counts[0] == counts[1]
    assert told_of[0] == ["actor offload, weights stay", "wake weights"]
    assert "admit ['dp0.s1'], then sleep kv_cache+weights" in told_of[1]


def test_a_server_that_runs_already_is_noted_asleep_at_the_start_and_not_at_a_gate():
    _, _, notes = begin(at_gates=False)
    assert notes[:2] == [("start", name, frozenset()) for name in ("dp0.s0", "dp0.s1")]


def test_without_an_actor_servers_keep_the_weights_that_they_loaded():
    """Released weights come back uninitialised, and nobody would publish any."""
    told = Recorder()
    colocation = ServersAlone(told, lambda task: task())
    colocation.enter_start_phase()
    assert told.calls == []
    colocation.admit_servers(told)  # type: ignore[arg-type]
    for enter in (
        colocation.enter_rollout_phase,
        colocation.enter_train_phase,
        colocation.enter_save_phase,
    ):
        enter()
    told.lost = ["dp0.s0"]
    colocation.enter_sync_phase()
    assert told.calls == [
        "admit ['dp0.s0', 'dp0.s1'], then sleep nothing",
        "hold back",
        "restart ['dp0.s0'] behind their gates",
        "admit ['dp0.s0'], then sleep nothing",
    ]
