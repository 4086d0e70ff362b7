"""The schedule in numbers, of the real scheduler without a model. That an actor goes on at the right rate from a
checkpoint is shown in tests/parallel/actor_checkpoint_cases.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from megatron_ar3po.actor.optimizer import make_scheduler
from megatron_ar3po.config.actor import ActorConfig


def rates(num_updates: int, **options: Any) -> list[float]:
    """Of all updates of a run of `num_updates`, at a learning rate of 1."""
    actor = ActorConfig(**{"learning_rate": 1.0, **options})
    optimizer: Any = SimpleNamespace(param_groups=[{}])
    scheduler = make_scheduler(optimizer, actor, num_updates)
    found = []
    for _ in range(num_updates):
        scheduler.step(1)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"lr_warmup_steps": 2}, [0.5, 1, 1, 1]),
        ({"lr_decay": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"lr_decay": "linear", "lr_warmup_steps": 1}, [1, 0.75, 0.5, 0.25]),
        ({"lr_decay": "linear", "lr_warmup_steps": 2}, [0.5, 1, 2 / 3, 1 / 3]),
        ({"lr_decay": "cosine"}, [1, 0.853553, 0.5, 0.146447]),
        ({"lr_decay": "cosine", "lr_warmup_steps": 2}, [0.5, 1, 0.75, 0.25]),
        ({"lr_decay": "linear", "min_learning_rate": 0.2}, [1, 0.8, 0.6, 0.4]),
    ],
)
def test_four_updates_have_these_rates(options, expected):
    assert rates(4, **options) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 3, 20])
@pytest.mark.parametrize("num_updates", [1, 2, 3, 10])
def test_every_update_of_a_run_learns_the_first_and_the_last_too(num_updates, warmup, decay):
    assert min(rates(num_updates, lr_decay=decay, lr_warmup_steps=warmup)) > 0


def test_a_run_of_another_length_has_another_schedule():
    """What a resume with another run.num_steps goes on with: the third update of 4, of 8."""
    assert rates(4, lr_decay="linear")[2] == pytest.approx(0.5)
    assert rates(8, lr_decay="linear")[2] == pytest.approx(0.75)


def test_a_floor_above_the_rate_is_refused():
    with pytest.raises(
        ValueError, match=r"actor\.min_learning_rate=2 is above actor\.learning_rate=1"
    ):
        ActorConfig(learning_rate=1.0, min_learning_rate=2.0)
