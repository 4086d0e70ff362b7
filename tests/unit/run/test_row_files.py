"""Metrics, rollouts and ledger are held against what they were when a checkpoint was made."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from megatron_ar3po.file_digests import FileDigest
from megatron_ar3po.run.row_files import RowFiles, check_row_files

ROWS = {
    "metrics.jsonl": b'{"step": 0, "loss": 0.5}\n{"step": 1, "loss": 0.25}\n',
    "rollouts.jsonl": b'{"step": 1, "prompt": "2+2"}\n',
    "ledger/dp00.jsonl": b'{"kind": "prompt", "step": 1, "position": 0}\n',
    "ledger/dp01.jsonl": b'{"kind": "prompt", "step": 1, "position": 1}\n',
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "ledger").mkdir()
    for name, content in ROWS.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_what_was_measured_is_size_and_checksum_also_where_a_part_was_read_before(run):
    files = RowFiles(run)
    assert files.measure() == {
        name: FileDigest(len(content), xxhash.xxh3_128_hexdigest(content))
        for name, content in ROWS.items()
    }
    append(run / "metrics.jsonl", b'{"step": 2}\n')
    assert files.measure() == RowFiles(run).measure()
    assert files.measure()["metrics.jsonl"].num_bytes == len(ROWS["metrics.jsonl"]) + 12


def test_rows_of_later_steps_and_half_a_row_at_the_end_are_no_damage(run):
    written = RowFiles(run).measure()
    append(run / "metrics.jsonl", b'{"step": 2}\n{"st')
    append(run / "ledger/dp01.jsonl", b'{"kind": "intent", "step": 2}\n')
    assert check_row_files(run, written) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"1")] ^= 1  # step 1 becomes step 0: a row like any other
    path.write_bytes(content)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, "was damaged"),
        (lambda path: os.truncate(path, 20), "holds 20 of the"),
        (lambda path: os.truncate(path, 0), "holds 0 of the"),
    ],
    ids=["flipped", "cut", "emptied"],
)
def test_rows_that_are_not_what_was_written_refuse_the_resume_by_the_files_name(
    run, name: str, damage: Callable[[Path], object], said: str
):
    written = RowFiles(run).measure()
    damage(run / name)
    with pytest.raises(ValueError, match="rows of earlier steps are not what was written") as error:
        check_row_files(run, written)
    assert str(error.value).startswith(f"{run / name} {said}")


def test_a_file_that_is_gone_is_said_and_does_not_refuse(run):
    written = RowFiles(run).measure()
    (run / "rollouts.jsonl").unlink()
    assert check_row_files(run, written) == [
        f"{run / 'rollouts.jsonl'} is gone: the run goes on without its rows of the steps before"
    ]


def test_a_row_behind_the_checkpoint_that_cannot_be_read_is_named_with_its_line(run):
    written = RowFiles(run).measure()
    append(run / "ledger/dp00.jsonl", b'{"kind": "intent"\n{"kind": "prompt"}\n')
    with pytest.raises(ValueError, match=r"dp00\.jsonl:2 is not JSON"):
        check_row_files(run, written)


def test_of_a_checkpoint_that_knows_no_rows_only_their_form_is_looked_at(run):
    flip(run / "metrics.jsonl")
    assert check_row_files(run, {}) == []
