"""The sets of the folder that AR3PO_TEST_DATA names, prepared: docs/data.md holds what the command says of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_ar3po.cli import main

ROOT = Path(__file__).resolve().parents[3]
SETS = (
    *("math_train", "gsm8k_train", "gsm8k_test", "math500", "minerva_math", "olympiadbench"),
    *("aime24", "aime25", "amc23", "svamp"),
)


@pytest.fixture(scope="module")
def problems() -> Path:
    folder = Path(os.environ.get("AR3PO_TEST_DATA", "")) / "problems"
    if not os.environ.get("AR3PO_TEST_DATA") or not folder.is_dir():
        pytest.skip("AR3PO_TEST_DATA has no problems/")
    return folder


@pytest.fixture(scope="module")
def prepared(problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    assert main(["data", "prepare", *SETS, "--from", str(problems), "--out", str(out)]) == 0
    return out


def test_rows_and_checksums_are_those_of_the_page(problems, tmp_path, capsys):
    assert main(["data", "prepare", *SETS, "--from", str(problems), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8").splitlines()
    assert len(said) == len(SETS)
    assert [line for line in said if line not in page] == []


def test_two_runs_give_the_same_bytes(problems, prepared, tmp_path):
    assert (
        main(["data", "prepare", "math500", "--from", str(problems), "--out", str(tmp_path)]) == 0
    )
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (prepared / path.name).read_bytes()
