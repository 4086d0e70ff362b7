"""The numbers are those of the worked example in `algorithm/entropy_floor.py`."""

from __future__ import annotations

import json

import pytest

from megatron_ar3po.algorithm.entropy_floor import EntropyFloor
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.records import Max

ENTROPIES = (0.5, 0.29, 0.25, 0.31, 0.28)
USED = (0.0, 0.005, 0.010, 0.0, 0.010)
CONFIG = AlgorithmConfig(entropy_target=0.3, entropy_coef_max=0.02)


def test_the_weight_of_the_bonus_grows_below_the_floor_and_is_not_used_above_it() -> None:
    floor = EntropyFloor(CONFIG)
    used = []
    for entropy in ENTROPIES:
        floor.observe(entropy)
        used.append(floor.coef)
    assert used == pytest.approx(USED)
    assert floor.records == {
        "actor/entropy_target": Max(0.3),
        "actor/entropy_coef": Max(pytest.approx(0.010)),
    }


def test_it_never_grows_beyond_its_maximum() -> None:
    floor = EntropyFloor(CONFIG)
    for _ in range(10):
        floor.observe(0.1)
    assert floor.coef == 0.02


def test_it_begins_with_the_coefficient_of_the_config() -> None:
    floor = EntropyFloor(AlgorithmConfig(entropy_target=0.3, entropy_coef=0.01))
    assert floor.coef == 0.01
    floor.observe(0.31)
    assert floor.coef == 0.0


@pytest.mark.parametrize("done", range(len(ENTROPIES)))
def test_a_checkpoint_after_any_step_goes_on_as_if_there_had_been_none(done: int) -> None:
    floor = EntropyFloor(CONFIG)
    for entropy in ENTROPIES[:done]:
        floor.observe(entropy)
    resumed = EntropyFloor(CONFIG, json.loads(json.dumps(floor.state)))
    assert resumed.coef == floor.coef
    for entropy in ENTROPIES[done:]:
        resumed.observe(entropy)
    assert resumed.coef == pytest.approx(USED[-1])


def test_without_a_target_the_coefficient_stays_what_it_is_and_nothing_is_kept() -> None:
    floor = EntropyFloor(AlgorithmConfig(entropy_coef=-0.5))
    floor.observe(0.0)
    assert (floor.coef, floor.state, floor.records) == (-0.5, {}, {})


def test_a_start_that_no_step_could_reach_is_refused() -> None:
    with pytest.raises(ValueError, match=r"entropy_coef=0\.2 .*_coef_max=0\.1; set"):
        AlgorithmConfig(entropy_target=0.3, entropy_coef=0.2)
    with pytest.raises(ValueError, match=r"entropy_coef=-0\.1 is where the bonus begins"):
        AlgorithmConfig(entropy_target=0.3, entropy_coef=-0.1)
