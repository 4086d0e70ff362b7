"""The cases of objective_cases.py, each reported by its name (conftest.py runs them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import objective_cases
import pytest

PROGRAM = Path(objective_cases.__file__)


@pytest.mark.parametrize(
    ("world_size", "name"),
    [(world, name) for world, cases in objective_cases.CASES.of_world.items() for name in cases],
)
def test_objective_at_world_size(world_size: int, name: str, outcome: dict[str, Any]) -> None:
    assert outcome["ok"], outcome["detail"]
