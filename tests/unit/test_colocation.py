from megatron_ar3po.colocation import ColocatedGpus, SharedHostMemory


class Recorder:
    """Actor and servers at once: writes down who is told what, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.dead: list[str] = []

    def offload(self, *, keep_weights: bool = False) -> None:
        self.calls.append("actor offload, weights stay" if keep_weights else "actor offload")

    def onload(self) -> None:
        self.calls.append("actor onload")

    def sleep(self, tags) -> None:
        self.calls.append(f"sleep {'+'.join(tags)}")

    def wake(self, tags) -> None:
        self.calls.append(f"wake {'+'.join(tags)}")

    def find_lost(self) -> list[str]:
        return self.dead

    def revive_lost(self, asleep) -> None:
        self.calls.append(f"revive {self.dead} with {'+'.join(asleep) or 'nothing'} asleep")
        self.dead = []


def test_a_step_hands_memory_over_in_the_order_of_the_table():
    told = Recorder()
    colocation = ColocatedGpus(told, told, lambda task: task())  # type: ignore[arg-type]
    for enter in (
        colocation.enter_rollout_phase,
        colocation.enter_train_phase,
        colocation.enter_sync_phase,
        colocation.enter_rollout_phase,
    ):
        told.calls.append(f"-- {enter.__name__}")
        enter()
    assert told.calls == [
        *("-- enter_rollout_phase", "actor offload"),
        *("-- enter_train_phase", "sleep kv_cache+weights", "actor onload"),
        *("-- enter_sync_phase", "actor offload, weights stay", "wake weights"),
        *("-- enter_rollout_phase", "actor offload", "wake kv_cache"),
    ]


def test_a_checkpoint_after_an_evaluation_finds_the_whole_actor_and_servers_keep_their_weights():
    """Saved where evaluation leaves the actor, it would hold memory that has been given away."""
    told = Recorder()
    colocation = ColocatedGpus(told, told, lambda task: task())  # type: ignore[arg-type]
    colocation.enter_sync_phase()
    colocation.enter_rollout_phase()
    told.calls.clear()
    colocation.enter_save_phase()
    assert told.calls == ["sleep kv_cache", "actor onload"]
    colocation.enter_rollout_phase()
    assert told.calls[2:] == ["actor offload", "wake kv_cache"]


def test_an_evaluation_after_a_rollout_moves_nothing_twice():
    told = Recorder()
    colocation = ColocatedGpus(told, told, lambda task: task())  # type: ignore[arg-type]
    colocation.enter_rollout_phase()
    told.calls.clear()
    colocation.enter_rollout_phase()
    assert told.calls == ["actor offload"]  # which does nothing when it is offloaded already


def test_a_server_that_died_while_the_actor_trained_is_started_beside_an_offloaded_actor():
    told = Recorder()
    colocation = ColocatedGpus(told, told, lambda task: task())  # type: ignore[arg-type]
    colocation.enter_train_phase()
    told.dead = ["dp0.s1"]
    told.calls.clear()
    colocation.enter_sync_phase()
    assert told.calls == [
        "actor offload",
        "revive ['dp0.s1'] with kv_cache+weights asleep",
        "actor offload, weights stay",
        "wake weights",
    ]


def test_without_an_accelerator_a_lost_server_is_revived_before_a_publish_all_the_same():
    told = Recorder()
    told.dead = ["dp0.s0"]
    colocation = SharedHostMemory(told, lambda task: task())
    colocation.enter_rollout_phase()
    colocation.enter_train_phase()
    assert told.calls == []
    colocation.enter_sync_phase()
    assert told.calls == ["revive ['dp0.s0'] with nothing asleep"]
