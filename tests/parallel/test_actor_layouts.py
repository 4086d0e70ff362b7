"""The cases of actor_cases.py, each reported by its name (conftest.py runs them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import actor_cases
import pytest

PROGRAM = Path(actor_cases.__file__)


@pytest.mark.parametrize(
    ("world_size", "name"),
    [
        pytest.param(
            world_size,
            name,
            marks=[pytest.mark.chaos] if name in actor_cases.CASES.exhaustive else [],
        )
        for world_size, cases in actor_cases.CASES.of_world.items()
        for name in cases
    ],
)
def test_actor_at_world_size(world_size: int, name: str, outcome: dict[str, Any]) -> None:
    assert outcome["ok"], outcome["detail"]
