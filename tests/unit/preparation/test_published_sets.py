"""The sets of the folder that AR3PO_TEST_DATA names, prepared: docs/data.md holds what the command says of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.preparation.overlaps import VERDICTS

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


JUDGED = ROOT / "docs/near_pairs_math500.jsonl"


def test_math500_meets_the_training_problems_in_the_pairs_that_were_judged_and_in_no_other(
    prepared, tmp_path, capsys
):
    training, bench = prepared / "math_train.jsonl", prepared / "math500.jsonl"
    words = ["data", "check", str(training), str(bench), "--list", str(tmp_path / "pairs.jsonl")]
    assert main(words) == 1
    assert f"{bench}: of 500 rows 0 exact, 6 one word, 48 13-gram\n" in capsys.readouterr().err
    found, judged = (
        {tuple(row["hashes"]): row for row in map(json.loads, path.read_text().splitlines())}
        for path in (tmp_path / "pairs.jsonl", JUDGED)
    )
    assert len(judged) == 171 and found.keys() == judged.keys()
    assert all(row["why"] and row["verdict"] in VERDICTS for row in judged.values())
    for hashes, row in judged.items():
        same = {name: row[name] for name in ("benchmark", "training", "kind", "shared")}
        assert same.items() <= found[hashes].items()


def test_what_is_left_out_is_what_was_not_called_different(prepared, tmp_path, capsys):
    training, bench = prepared / "math_train.jsonl", prepared / "math500.jsonl"
    out = tmp_path / "clean.jsonl"
    words = ["data", "check", str(training), str(bench), "--judged", str(JUDGED)]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "63 of 7469 rows overlap (108 pairs were judged different)" in said
    assert len(out.read_text().splitlines()) == 7469 - 63
