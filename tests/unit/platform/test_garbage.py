import gc
from collections.abc import Iterator

import pytest

from megatron_ar3po.platform.garbage import (
    hold_collections,
    keep_what_is_here,
    spare_collections,
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_a_start_collects_nothing_and_a_step_does_not_look_at_what_the_start_made():
    hold_collections()
    assert not gc.isenabled()
    made = [[] for _ in range(1000)]
    keep_what_is_here()
    assert gc.isenabled()
    looked_at = {id(thing) for thing in gc.get_objects()}
    assert not any(id(thing) in looked_at for thing in made)
    later: list[list] = [[] for _ in range(10)]
    assert {id(thing) for thing in later} <= {id(thing) for thing in gc.get_objects()}


def test_a_rollout_looks_at_young_objects_alone_and_leaves_the_thresholds_as_they_were():
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), spare_collections():
        counts = [stats["collections"] for stats in gc.get_stats()]
        held = [[] for _ in range(600_000)]  # 60 times the youngest, one time the next
        now = [stats["collections"] for stats in gc.get_stats()]
        assert [b - a for a, b in zip(counts, now, strict=True)][1:] == [1, 0]
        del held
        _ = 1 / 0
    assert gc.get_threshold() == before
