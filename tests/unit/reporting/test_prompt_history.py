"""`ar3po history`, from ledgers with numbers that can be worked out by hand."""

from __future__ import annotations

import doctest
import json
from itertools import pairwise
from pathlib import Path

import pytest

from megatron_ar3po import cli
from megatron_ar3po.file_digests import seal_row
from megatron_ar3po.reporting import prompt_history as history
from megatron_ar3po.reporting.prompt_history import summarize_history


def row(step: int, prompt_id: str, *, responses: int, correct: int, **more: object) -> dict:
    return {
        "kind": "prompt", "step": step, "position": 10 * step + int(prompt_id[1:]), "prompt_id": prompt_id,
        "responses": responses, "correct": correct, "response_tokens": 3 * responses, "discarded": False,
        **more,
    }  # fmt: skip


ROWS = [
    row(1, "p0", responses=1, correct=1),
    row(1, "p1", responses=1, correct=0),
    row(2, "p0", responses=1, correct=0, abandoned=True),
    row(2, "p0", responses=2, correct=1),
    row(2, "p2", responses=2, correct=0, ungraded=2),
]


def write_run(folder: Path, *parts: list[dict], config: str = "") -> Path:
    """One ledger for each replica."""
    (folder / "ledger").mkdir(parents=True)
    for rank, rows in enumerate(parts):
        lines = b"".join(seal_row(r) + b"\n" for r in rows)
        (folder / "ledger" / f"dp{rank:02d}.jsonl").write_bytes(lines)
    if config:
        (folder / "resolved_config.yaml").write_text(config)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = "rollout: {history_decay: 0.5}\nalgorithm: {history_prior_weight: 1.0}\n"
    return write_run(tmp_path / "run", ROWS, config=config)


def test_counts_are_those_of_all_visits_and_the_pass_rate_is_the_historys(run: Path) -> None:
    """Decay 0.5, prior weight 1. p0: 1 of 1, then 1 of 2: (.5 + 1) right and 1 wrong, halved for the next visit.
    Pooled: (1, 1), halved, and 1 right 1 wrong: (1 + 1.5) / (2 + 3). p1: half a wrong one. p2's two had no verdict."""
    summary = summarize_history(run)
    assert (summary.steps, summary.visits, summary.prompts_in_file) == (2, {1: 2, 2: 1}, None)
    hardest, easier, unknown = summary.prompts
    assert (hardest.prompt_id, hardest.correct, hardest.responses) == ("p1", 0, 1)
    assert hardest.pass_rate == pytest.approx(0.5 / 1.5)
    assert (easier.prompt_id, easier.visits, easier.correct, easier.responses) == ("p0", 2, 2, 3)
    assert (easier.decayed_correct, easier.decayed_wrong) == (0.75, 0.5)
    assert easier.pass_rate == pytest.approx((0.75 + 0.5) / (1.25 + 1))
    assert (unknown.prompt_id, unknown.responses) == ("p2", 0)


def test_a_window_has_the_spread_at_its_end(run: Path) -> None:
    """After step 1, pooled 1/2: p0 (.5 + .5) / 1.5 = 2/3, p1 .5 / 1.5. After step 2: 0.556 and 1/3."""
    first, second = summarize_history(run).windows
    assert (first.first_step, first.last_step, first.responses, first.correct) == (1, 1, 2, 1)
    assert first.pass_rate_bins == (0, 0, 0, 1, 0, 0, 1, 0, 0, 0)
    assert second.pass_rate_bins == (0, 0, 0, 1, 0, 1, 0, 0, 0, 0)
    assert (second.prompts, second.responses) == (2, 2)


def test_it_does_not_depend_on_which_replica_wrote_a_row(tmp_path: Path) -> None:
    alone = summarize_history(write_run(tmp_path / "alone", ROWS))
    pair = summarize_history(write_run(tmp_path / "pair", ROWS[::2], ROWS[1::2]))
    assert (alone.windows, alone.prompts) == (pair.windows, pair.prompts)


def test_a_long_run_is_cut_into_ten_windows_that_hold_every_step(tmp_path: Path) -> None:
    rows = [row(step, "p0", responses=1, correct=1) for step in range(1, 24)]
    windows = summarize_history(write_run(tmp_path / "run", rows)).windows
    assert len(windows) == 10 and windows[0].first_step == 1 and windows[-1].last_step == 23
    assert all(a.last_step + 1 == b.first_step for a, b in pairwise(windows))


def test_the_command_prints_a_table_the_hardest_and_json(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["history", str(run), "--hardest", "1"]) == 0
    printed = capsys.readouterr().out
    assert "2 steps, 3 prompts seen" in printed and "2 seen 1x, 1 seen 2x" in printed
    assert "p1                      1      0 of 1      0.333          1       3\n" in printed
    assert "p0   " not in printed
    assert cli.main(["history", str(run), "--json"]) == 0
    assert [p["prompt_id"] for p in json.loads(capsys.readouterr().out)["prompts"]] == [
        *("p1", "p0", "p2")
    ]


def test_the_command_draws_a_figure(run: Path, tmp_path: Path) -> None:
    assert cli.main(["history", str(run), "--plot", str(tmp_path / "history.png")]) == 0
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plot", "nowhere/history.png"], "must be a FILE.png in a folder that is there"),
        (["--plot", "history.pdf"], "must be a FILE.png in a folder that is there"),
        (["--hardest", "-1"], "--hardest -1 must be at least 0"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["history", str(run), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_ledger_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["history", str(tmp_path)]) == 2
    assert "has no row of a prompt; name the folder of a run" in capsys.readouterr().err


def test_the_example_of_the_docstring_holds() -> None:
    assert doctest.testmod(history).attempted >= 1 and doctest.testmod(history).failed == 0
