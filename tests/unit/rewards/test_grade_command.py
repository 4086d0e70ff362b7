"""`ar3po grade`, as the command line sees it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from megatron_ar3po.rewards.cli import add_grade_parser, parse_row


def grade(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_grade_parser(parser.add_subparsers())
    args = parser.parse_args(["grade", *map(str, arguments)])
    return args.command(args)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_is_graded_in_its_own_order_and_keeps_its_fields(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": i, "gold": str(i), "response": rf"so \boxed{{{i + i % 2}}}"} for i in range(50)
    ]
    rows.append({"id": 50, "gold": r"\frac12", "pred": "0.5"})
    rows.append({"id": 51, "gold": "2.4", "pred": "2.45", "error": "1e-1"})
    assert (
        grade(
            "--input",
            write(tmp_path / "in.jsonl", rows),
            "--output",
            tmp_path / "out.jsonl",
            "--workers",
            "1",
        )
        == 0
    )
    graded = read(tmp_path / "out.jsonl")
    assert [row["id"] for row in graded] == list(range(52))
    assert [row["reward"] for row in graded[:4]] == [1.0, 0.0, 1.0, 0.0]
    assert graded[50]["status"] == graded[51]["status"] == "correct"
    assert set(graded[0]) >= {
        "reward",
        "status",
        "reason",
        "elapsed_s",
        "extracted",
        "gold",
        "response",
    }


def test_the_kind_says_what_a_field_holds(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl",
        [{"gold": "5", "pred": "A tale of 5"}, {"gold": "5", "pred": r"\boxed{5} apples"}],
    )
    grade(
        "--input",
        source,
        "--output",
        tmp_path / "out.jsonl",
        "--kind",
        "response",
        "--workers",
        "1",
    )
    assert [row["status"] for row in read(tmp_path / "out.jsonl")] == ["correct", "correct"]


def test_one_pair_shows_the_layers_that_were_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert grade("--gold", r"\frac{1}{2}", "--pred", r"\sin 30^\circ") == 0
    said = capsys.readouterr().out
    assert "text: different spellings" in said
    assert "expression:" in said
    assert "status     correct" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"not json", r"in\.jsonl:1 is not JSON"),
        (
            b'{"gold": "5"}',
            r"in\.jsonl:1 needs the strings 'gold' and one of 'response' and 'pred'",
        ),
        (b"[1, 2]", r"in\.jsonl:1 needs the strings"),
    ],
)
def test_a_broken_line_is_named(line: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_row(line, "in.jsonl:1")


def test_a_broken_line_late_in_the_file_leaves_no_half_an_output(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"gold": "5", "pred": "5"}] * 40)
    with source.open("a", encoding="utf-8") as lines:
        lines.write('{"gold": "5", "pred"')
    with pytest.raises(ValueError, match=r"in\.jsonl:41 is not JSON"):
        grade("--input", source, "--output", tmp_path / "out.jsonl", "--workers", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_help_shows_how_each_form_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        grade("--help")
    said = capsys.readouterr().out
    assert "  ar3po grade --input FILE.jsonl --output FILE.jsonl    {" in said
    assert "  ar3po grade --gold '1/2' --pred '0.5'  " in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of: --input and --output; --gold and --pred; --check FILE"),
        (["--gold", "5"], "add --pred"),
        (["--input", "x.jsonl"], "needs --output"),
        (["--input", "x.jsonl", "--output", "x.jsonl"], "would overwrite"),
        (["--input", "no_such.jsonl", "--output", "y.jsonl"], "is not a file"),
        (["--gold", "5", "--pred", "5", "--strict"], "needs one --answer-format"),
        (
            ["--gold", "5", "--pred", "5", "--timeout", "nan"],
            "^--timeout nan must be above 0",
        ),
        (["--check", "README.md", "--workers", "0"], "^--workers 0 must be above 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_sentence(
    arguments: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        grade(*arguments)


def test_check_lists_the_ground_truths_that_nothing_can_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "d.jsonl", [{"answer": "5"}, {"answer": r"\oslash ???"}])
    assert grade("--check", data, "--workers", "1") == 1
    said = capsys.readouterr()
    assert f"{data}:2: " in said.out and f"{data}:1" not in said.out
    assert "1 of 2 ground truths are unusable" in said.err
    assert grade("--check", write(tmp_path / "e.jsonl", [{"answer": "5"}])) == 0


def test_check_names_the_line_without_the_answer_field(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", [{"answer": "5"}, {"gold": "5"}])
    with pytest.raises(ValueError, match=r"d\.jsonl:2 has no string 'answer'.*--answer-field"):
        grade("--check", data)
