"""Every check of tools/prove_gpu.py as a test, in a process of its own as there. The same functions run on the CPU in
tests/unit/tools/test_prove.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prove.running import look_around, run_checks
from prove.table import CHECKS, Check

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_holds(check: Check, models: Path, tmp_path: Path) -> None:
    (row,) = run_checks([check], look_around(), work=models, logs=tmp_path, total_s=600.0)
    if row.status == "not available":
        pytest.skip(row.figure)
    assert row.status == "pass", row.figure
