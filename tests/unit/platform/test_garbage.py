import gc
from collections.abc import Iterator

import pytest

from megatron_ar3po.platform.garbage import hold_collections, keep_what_is_here


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
