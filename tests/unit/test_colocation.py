from megatron_ar3po.colocation import ColocatedGpus


class Recorder:
    """Actor and servers at once: writes down who is told what, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def offload(self) -> None:
        self.calls.append("actor offload")

    def onload(self) -> None:
        self.calls.append("actor onload")

    def sleep(self, tags) -> None:
        self.calls.append(f"sleep {'+'.join(tags)}")

    def wake(self, tags) -> None:
        self.calls.append(f"wake {'+'.join(tags)}")


def test_a_step_hands_memory_over_in_the_order_of_the_table():
    told = Recorder()
    colocation = ColocatedGpus(told, told, lambda task: task())  # type: ignore[arg-type]
    for phase in (
        colocation.rollout_phase,
        colocation.train_phase,
        colocation.sync_phase,
        colocation.rollout_phase,
    ):
        told.calls.append(f"-- {phase.__name__}")
        with phase():
            pass
    assert told.calls == [
        *("-- rollout_phase", "actor offload"),
        *("-- train_phase", "sleep kv_cache+weights", "actor onload"),
        *("-- sync_phase", "actor onload", "wake weights"),
        *("-- rollout_phase", "actor offload", "wake kv_cache"),
    ]


def test_an_evaluation_after_a_rollout_moves_nothing_twice():
    told = Recorder()
    colocation = ColocatedGpus(told, told, lambda task: task())  # type: ignore[arg-type]
    with colocation.rollout_phase():
        pass
    told.calls.clear()
    with colocation.rollout_phase():
        pass
    assert told.calls == ["actor offload"]  # which does nothing when it is offloaded already
