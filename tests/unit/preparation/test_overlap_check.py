"""`ar3po data check`: planted overlaps are found, by the way they were planted; judged pairs; what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.preparation.contamination import GRAM_WORDS, BenchmarkIndex, words_of

SHORT = "What is the smallest positive multiple of $23$ that is $4$ more than a multiple of $89$?"
LONG = (
    "A rectangular box has interior dimensions 6 inches by 5 inches by 10 inches. The box is filled with as many "
    "solid 3-inch cubes as possible, with all of the cubes entirely inside the rectangular box. What percent of the "
    "volume of the box is taken up by the cubes?"
)
OTHER = "Let $x$ and $y$ be real numbers with $x + y = 7$. Find the largest value of $xy$."


def check(*words: object) -> int:
    return main(["data", "check", *map(str, words)])


def write(path: Path, *texts: str) -> Path:
    rows = [
        {"prompt": text, "answer": "1", "id": f"{path.stem}-{n}"} for n, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PLANTED = {
    "exact": (SHORT, "exact"),
    "re-spaced": (SHORT.replace(" ", "\n  ").replace("$", ""), "exact"),
    "LaTeX spacing and case": (OTHER.upper().replace("X + Y", "X\\,+\\;Y"), "exact"),
    "one word changed": (SHORT.replace("smallest", "largest"), "one word"),
    "one number changed": (SHORT.replace("89", "98"), "one word"),
    "one word more": (SHORT.replace("positive", "positive integer"), "one word"),
    "one word less": (SHORT.replace("positive ", ""), "one word"),
    "one word of a long text changed": (LONG.replace("filled", "packed"), "13-gram"),
    "its middle changed": (LONG.replace("solid 3-inch cubes", "wooden 2-inch cubes"), "13-gram"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_overlap_is_found(name):
    text, kind = PLANTED[name]
    index = BenchmarkIndex([SHORT, LONG, OTHER])
    (found,) = index.find(text)
    assert found.kind == kind
    assert [SHORT, LONG, OTHER][found.benchmark][:4].lower() == text.strip()[:4].lower()


def test_every_word_of_a_text_may_be_the_changed_one():
    """From 3 words on; of a long text 13 words in a row are left, of a short one all others."""
    for text in (SHORT, LONG, "Simplify $\\sqrt{242}$."):
        words = words_of(text)
        index = BenchmarkIndex([text])
        for index_of_word in range(len(words)):
            changed = [*words[:index_of_word], "changed", *words[index_of_word + 1 :]]
            assert index.find(" ".join(changed)), (text, index_of_word)


def test_other_problems_and_a_run_of_twelve_words_are_no_overlap():
    index = BenchmarkIndex([LONG])
    words = words_of(LONG)
    assert index.find(OTHER) == [] and index.find(SHORT) == []
    assert index.find(" ".join(["so", *words[4 : 4 + GRAM_WORDS - 1], "then", "stop"])) == []
    (found,) = index.find(" ".join(["so", *words[4 : 4 + GRAM_WORDS], "then", "stop"]))
    assert (found.kind, found.shared) == ("13-gram", 1)


@pytest.fixture
def files(tmp_path):
    training = write(tmp_path / "train.jsonl", OTHER, SHORT, LONG.replace("filled", "packed"))
    return training, write(tmp_path / "bench.jsonl", LONG, SHORT)


def test_overlaps_are_named_counted_and_left_out(files, tmp_path, capsys):
    training, bench = files
    assert check(training, bench) == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{training}:2: exact of {bench}:2 (bench-1)",
        f"{training}:3: 13-gram of {bench}:1 (bench-0)",
    ]
    assert f"{bench}: of 2 rows 1 exact, 0 one word, 1 13-gram\n" in said.err
    assert f"{training}: 2 of 3 rows overlap\n" in said.err
    assert check(training, bench, "--out", tmp_path / "clean.jsonl") == 0
    assert (tmp_path / "clean.jsonl").read_text() == training.read_text().splitlines(True)[0]
    assert check(tmp_path / "clean.jsonl", bench) == 0


def test_a_pair_that_is_judged_different_is_none_and_an_exact_one_always_is(
    files, tmp_path, capsys
):
    training, bench = files
    listed = tmp_path / "pairs.jsonl"
    assert check(training, bench, "--list", listed) == 1
    listed.write_text(listed.read_text().replace('"verdict": ""', '"verdict": "different"'))
    capsys.readouterr()
    assert check(training, bench, "--judged", listed) == 1
    said = capsys.readouterr()
    assert said.out == f"{training}:2: exact of {bench}:2 (bench-1)\n"
    assert "1 of 3 rows overlap (1 pairs were judged different)" in said.err
    listed.write_text(listed.read_text().replace('"different"', '"unsure"'))
    assert check(training, bench, "--judged", listed) == 2
    assert f"{listed}:1: " in capsys.readouterr().err


def test_a_row_without_a_problem_and_an_output_that_is_an_input_are_refused(files, capsys):
    training, bench = files
    assert check(training, bench, "--prompt-field", "question") == 2
    assert f"{bench}:1: no problem in the field 'question', only" in capsys.readouterr().err
    for option, path in (("--out", training), ("--list", bench)):
        before = path.read_bytes()
        assert check(training, bench, option, path) == 2
        assert f"{option} {path} would overwrite" in capsys.readouterr().err
        assert path.read_bytes() == before
