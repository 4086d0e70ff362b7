"""`ar3po data prepare` on small made-up files: what is taken off, left out, listed, and written. The hub itself is not
asked; that the published sets come out as documented is tested in test_published_sets.py."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.grading_rules import FakeGradingRules
from huggingface_hub import snapshot_download

from megatron_ar3po.cli import main
from megatron_ar3po.preparation.catalogue import DATA_SETS, HubFiles, find_data_set
from megatron_ar3po.preparation.fetching import fetch_from_hub
from megatron_ar3po.preparation.normalised import hash_row, normalise
from megatron_ar3po.preparation.upstream_rows import DAPO_PREFIX, DAPO_SUFFIX

RULES = FakeGradingRules(equal=lambda one, other: float(one) == float(other))


def dapo(problem: str, answer: object = "2", index: str = "a", frame: bool = True) -> dict:
    content = f"{DAPO_PREFIX}{problem}{DAPO_SUFFIX}" if frame else problem
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": content}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


def write_jsonl(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prepare(*words: object) -> int:
    return main(["data", "prepare", *map(str, words), "--workers", "1"])


def test_dapos_prefix_and_suffix_are_taken_off_as_strings_and_its_problems_kept_once():
    """Stripping characters, as `lstrip(prefix)` does, would make "e the value" of "Solve the value"."""
    rows = [
        dapo("Solve the value of x. Answer:", "3", "a"),
        dapo("Solve the value of x. Answer:", "3", "b"),
        dapo("求 x 的值。", "3", "c"),
        dapo("Find  x.", 4.0, "d"),
        dapo("Find x.", "4", "e"),
        dapo("No frame.", "5", "f", frame=False),
        dapo("Twice.", "6", "g"),
        dapo("Twice.", "7", "h"),
    ]
    found = normalise(
        DATA_SETS["dapo_math"], [(f"f:{n}", row) for n, row in enumerate(rows, 1)], RULES
    )
    assert [(row["prompt"], row["answer"], row["id"]) for row in found.rows] == [
        ("Solve the value of x. Answer:", "3", "dapo_math/a"),
        ("Find  x.", "4", "dapo_math/d"),
    ]
    assert found.left_out == {"duplicate": 3, "not in English": 1, "contradictory answers": 1}
    assert found.broken == [
        "f:6: the prompt 'No frame.' does not stand between DAPO's prefix and suffix"
    ]
    assert found.defects == ["f:8: the problem is that of f:7, but its answer is '7' and not '6'"]
    assert found.num_read == 8


def test_a_prepared_row_says_where_it_came_from_and_what_it_holds(tmp_path, capsys):
    folder = tmp_path / "in"
    write_jsonl(
        folder / "math500.jsonl", {"id": "t/1.json", "problem": " 1+1? ", "answer": "2", "level": 3}
    )
    assert prepare("math500", "--from", folder, "--out", tmp_path / "out") == 0
    assert read_jsonl(tmp_path / "out/math500.jsonl") == [
        {
            "prompt": "1+1?",
            "answer": "2",
            "source": "math500",
            "id": "math500/t/1.json",
            "origin": "math500.jsonl:1",
            "hash": hash_row("1+1?", "2"),
            "level": 3,
        }
    ]
    provenance = json.loads((tmp_path / "out/math500.provenance.json").read_text())
    assert (provenance["rows"], provenance["rows_read"], provenance["left_out"]) == (1, 1, {})
    assert provenance["sha256"] in capsys.readouterr().out
    assert str(tmp_path) not in json.dumps(provenance)


def test_the_same_input_gives_the_same_bytes(tmp_path):
    rows = [dapo(f"Problem {n}.", str(n), str(n)) for n in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), make(tmp_path / "in") / "dapo-math-17k.parquet")
    for out in ("one", "two"):
        assert prepare("dapo_math", "--from", tmp_path / "in", "--out", tmp_path / out) == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["dapo_math.jsonl", "dapo_math.provenance.json"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert len(read_jsonl(tmp_path / "one/dapo_math.jsonl")) == 5


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_ground_truths_go_through_the_verifier_and_what_it_cannot_grade_is_left_out_and_listed(
    tmp_path, capsys
):
    folder = tmp_path / "in"
    good, bad = {"problem": "1+1?", "answer": "2"}, {"problem": "2+2?", "answer": "\\frac{1}{"}
    write_jsonl(folder / "aime24.jsonl", good, bad)
    assert prepare("aime24", "--from", folder, "--out", tmp_path) == 0
    said = capsys.readouterr()
    assert "1 rows" in said.out and "left out: 1 unusable answer" in said.out
    assert "aime24.jsonl:2: '\\\\frac{1}{'" in said.err
    assert [row["answer"] for row in read_jsonl(tmp_path / "aime24.jsonl")] == ["2"]


def test_a_file_of_ones_own_has_its_fields_named_nested_ones_by_dots(tmp_path):
    rows = [{"q": "1+1?", "meta": {"gold": [2.0]}, "key": 7, "topic": "sums"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    words = ["--prompt-field", "q", "--answer-field", "meta.gold.0", "--id-field", "key"]
    assert prepare(tmp_path / "mine.parquet", *words, "--keep", "topic", "--out", tmp_path) == 0
    (row,) = read_jsonl(tmp_path / "mine.jsonl")
    assert (row["prompt"], row["answer"], row["source"]) == ("1+1?", "2", "mine")
    assert (row["id"], row["origin"], row["topic"]) == ("mine/7", "mine.parquet:1", "sums")


BROKEN = {
    "no answer": ({"prompt": "b"}, "no answer: none of the fields answer, only ['prompt']"),
    "wrong type": ({"prompt": "b", "answer": {"x": 1}}, "the answer is {'x': 1} and neither text"),
    "true": ({"prompt": "b", "answer": True}, "the answer is True and neither text nor a number"),
    "empty": ({"prompt": "b", "answer": " "}, "the answer is ' ', which is none"),
    "no text": ({"prompt": 5, "answer": "1"}, "the prompt is 5; it must be text"),
    "10 MB": ({"prompt": "b" * 10**7, "answer": "1"}, "the prompt has 10000000 characters"),
    "id": (
        {"prompt": "b", "answer": "1", "id": "one"},
        "its id 'mine/one' is that of mine.jsonl:1",
    ),
    "utf-8": (b'{"prompt": "\xff", "answer": "1"}', "not JSON ('utf-8' codec can't decode"),
    "surrogate": ({"prompt": "\ud800", "answer": "1"}, "the prompt is no valid Unicode text"),
    "a list": ([1], "[1] is no JSON object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_named_by_file_and_line_and_left_out_where_that_is_asked_for(
    name, tmp_path, capsys
):
    bad, message = BROKEN[name]
    good = [{"prompt": f"{n}?", "answer": "1", "id": n} for n in ("one", "two")]
    line = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
    lines = [json.dumps(good[0]).encode(), line, json.dumps(good[1]).encode()]
    (tmp_path / "mine.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    out = tmp_path / "out"
    assert prepare(tmp_path / "mine.jsonl", "--out", out) == 2
    said = capsys.readouterr().err
    assert f"mine: 1 broken rows:\n  mine.jsonl:2: {message}" in said and "--skip-broken" in said
    assert len(said) < 1000 and not out.exists()
    assert prepare(tmp_path / "mine.jsonl", "--out", out, "--skip-broken") == 0
    assert "left out: 1 broken" in capsys.readouterr().out
    assert [row["id"] for row in read_jsonl(out / "mine.jsonl")] == ["mine/one", "mine/two"]
    assert json.loads((out / "mine.provenance.json").read_text())["rows_read"] == 3


def test_a_row_whose_id_is_taken_leaves_others_with_its_problem_alone():
    rows = [
        {"problem": "a?", "answer": "1", "id": "one"},
        {"problem": "b?", "answer": "2", "id": "one"},
        {"problem": "b?", "answer": "3", "id": "two"},
    ]
    found = normalise(DATA_SETS["aime24"], [(f"f:{n}", r) for n, r in enumerate(rows, 1)], RULES)
    assert [(row["prompt"], row["answer"]) for row in found.rows] == [("a?", "1"), ("b?", "3")]
    assert found.broken == ["f:2: its id 'aime24/one' is that of f:1"]
    assert (found.left_out, found.defects) == ({}, [])


def test_no_set_is_written_over_a_file_that_is_read_or_over_another_set(tmp_path, capsys):
    for folder in ("one", "two"):
        write_jsonl(tmp_path / folder / "mine.jsonl", {"prompt": f"{folder}?", "answer": "1"})
    one, two = tmp_path / "one/mine.jsonl", tmp_path / "two/mine.jsonl"
    before = one.read_bytes()
    assert prepare(one, "--out", tmp_path / "one") == 2
    assert f"would overwrite {one}, which is read" in capsys.readouterr().err
    assert one.read_bytes() == before
    assert prepare(one, two, "--out", tmp_path / "out") == 2
    assert "two of the sets would be written to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_empty_file_and_a_cut_off_parquet_are_named(tmp_path, capsys):
    (tmp_path / "mine.jsonl").touch()
    assert prepare(tmp_path / "mine.jsonl", "--out", tmp_path / "out") == 2
    assert f"no row of {tmp_path}/mine.jsonl is left (0 were read)" in capsys.readouterr().err
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"prompt": ["1?"] * 99, "answer": ["1"] * 99}), whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-40])
    assert prepare(tmp_path / "cut.parquet", "--out", tmp_path / "out") == 2
    assert f"{tmp_path}/cut.parquet: this Parquet file is cut off" in capsys.readouterr().err


def test_what_is_not_known_or_not_there_is_one_sentence(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"math_500 is no data set .* the nearest name is math500"):
        find_data_set("math_500")
    assert prepare("aime24", "--from", tmp_path, "--out", tmp_path) == 2
    assert "holds no aime24: no file aime24 with the ending .jsonl" in capsys.readouterr().err
    assert prepare("aime24", "--from", tmp_path / "none", "--out", tmp_path) == 2
    assert "is no folder" in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached_is_one_sentence():
    def fail(*args, **kwargs):
        raise OSError("We couldn't connect\nto the hub")

    wanted = r"aime24 could not be fetched from https://huggingface\.co/datasets/HuggingFaceH4/aime_2024 \(We could"
    with pytest.raises(ValueError, match=wanted) as raised:
        fetch_from_hub(DATA_SETS["aime24"], fail)
    assert "\n" not in str(raised.value) and "--from FOLDER" in str(raised.value)
    with pytest.raises(ValueError, match="svamp is not fetched from the hub"):
        fetch_from_hub(DATA_SETS["svamp"])


def test_the_hub_is_asked_for_the_pinned_files_as_its_library_takes_it(tmp_path):
    """Not asked: the hub. What `snapshot_download` takes is read from the library that is installed."""
    asked = []

    def download(*args, **kwargs) -> str:
        bound = inspect.signature(snapshot_download).bind(*args, **kwargs)
        asked.append(bound.arguments)
        folder = tmp_path / bound.arguments["revision"]
        for name in bound.arguments["allow_patterns"]:
            make((folder / name).parent).joinpath(Path(name).name).write_text("{}")
        return str(folder)

    (file,) = fetch_from_hub(DATA_SETS["gsm8k_test"], download)
    assert asked[0]["repo_id"] == "openai/gsm8k" and asked[0]["repo_type"] == "dataset"
    assert file.name == "openai/gsm8k@740312add88f/main/test-00000-of-00001.parquet"
    seven = fetch_from_hub(DATA_SETS["math_train"], download)
    assert [f.path.parent.name for f in seven][::6] == ["algebra", "precalculus"] and len(
        seven
    ) == 7
    gone = replace(DATA_SETS["aime24"], hub=HubFiles(repo="a/b", revision="c", files=("x/y",)))
    with pytest.raises(ValueError, match="a/b has no x/y at c: the repository was changed"):
        fetch_from_hub(gone, lambda *args, **kwargs: str(tmp_path))
