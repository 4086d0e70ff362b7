"""The cases of objective_cases.py, one torchrun per world size, each case reported by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import objective_cases
import pytest
from test_actor_layouts import Outcome, run_cases

PROGRAM = Path(objective_cases.__file__)


@pytest.fixture(scope="module")
def outcomes_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], dict[str, Outcome]]:
    finished: dict[int, dict[str, Outcome]] = {}

    def outcomes(world_size: int) -> dict[str, Outcome]:
        if world_size not in finished:
            chosen = [
                item.callspec.params["name"]
                for item in request.session.items
                if isinstance(item, pytest.Function)
                and item.originalname == test_objective_at_world_size.__name__
                and item.callspec.params["world_size"] == world_size
            ]
            folder = tmp_path_factory.mktemp("objective")
            finished[world_size] = run_cases(world_size, chosen, folder, PROGRAM)
        return finished[world_size]

    return outcomes


@pytest.mark.parametrize(
    ("world_size", "name"),
    [(world, name) for world, cases in objective_cases.CASES.items() for name in cases],
)
def test_objective_at_world_size(
    world_size: int, name: str, outcomes_of: Callable[[int], dict[str, Outcome]]
) -> None:
    outcome = outcomes_of(world_size)[name]
    if not outcome["ok"]:
        pytest.fail(outcome["detail"], pytrace=False)
