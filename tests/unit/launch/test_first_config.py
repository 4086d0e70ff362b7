"""`ar3po init`: what it writes can be trained on, and what cannot is refused before anything is written. That a run
learns from it: tests/e2e/test_first_config_trains.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from megatron_ar3po import cli
from megatron_ar3po.config.load import load_config
from megatron_ar3po.launch.config_text import FirstChoices, config_text
from megatron_ar3po.launch.first_config import split_rows


def choices(**changed: object) -> FirstChoices:
    common: dict[str, object] = {
        "name": "mine", "model": "/models/x", "max_positions": 128, "dtype": "float32", "on_gpu": False,
        "data": "/d/train.jsonl", "held_out": "/d/heldout.jsonl", "prompt_field": "question",
        "answer_field": "answer", "uses_template": True, "verifier": "math", "prompts_per_step": 16,
        "learning_rate": "5.0e-6", "max_prompt_tokens": 32, "max_response_tokens": 64,
    }  # fmt: skip
    return FirstChoices(**{**common, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("name", ["mine", 'it\'s "mine": # é'])
def test_the_config_is_read_as_what_was_chosen(tmp_path, on_gpu, name):
    (tmp_path / "config.yaml").write_text(config_text(choices(on_gpu=on_gpu, name=name)))
    config = load_config([tmp_path / "config.yaml"], [])
    assert (config.run.name, config.data.prompt_field) == (name, "question")
    assert (config.data.max_prompt_tokens, config.rollout.max_response_tokens) == (32, 64)
    assert config.actor.learning_rate == 5e-6
    assert config.actor.recompute == ("full" if on_gpu else "none")


@pytest.mark.parametrize("held_out", ["", "/d/heldout.jsonl"])
def test_every_option_of_it_is_explained(held_out):
    text = config_text(choices(held_out=held_out, on_gpu=True))
    options = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(options) >= 15
    assert [line for line in options if "  # " not in line] == []
    assert ("evaluation" in yaml.safe_load(text)) == bool(held_out)


@pytest.mark.parametrize(
    ("longest", "asked", "expected"),
    [(20, 0, (32, 94)), (33, 64, (48, 64)), (60, 66, (60, 66))],
    ids=["what there is room for", "as asked", "to the last token"],
)
def test_lengths_fit_the_model_of_whose_128_tokens_a_server_keeps_2(longest, asked, expected):
    fitted = choices().with_longest_prompt(longest, asked)
    assert (fitted.max_prompt_tokens, fitted.max_response_tokens) == expected


def test_prompts_that_leave_no_room_for_an_answer_are_refused():
    with pytest.raises(ValueError, match=r"longest prompt has 126 tokens.* leaves 0 for an answer"):
        choices().with_longest_prompt(126, 0)


def rows_of(count: int) -> list[dict]:
    return [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(count)]


def test_a_tenth_is_held_out_and_a_prompt_is_never_on_both_sides():
    rows = [*rows_of(100), *rows_of(100)]
    split = split_rows(rows, splits=True)
    asked = [{row["prompt"] for row in side} for side in (split.training, split.held_out)]
    assert (len(split.training), len(split.held_out)) == (180, 20)
    assert asked[0] & asked[1] == set()
    assert split_rows(rows, splits=True) == split


@pytest.mark.parametrize(("count", "held_out"), [(19, 0), (20, 2), (5000, 256)])
def test_of_few_rows_none_is_held_out_and_of_many_no_more_than_are_needed(count, held_out):
    assert len(split_rows(rows_of(count), splits=True).held_out) == held_out


def test_fields_are_found_by_their_usual_names():
    split = split_rows([{"problem": "1+1", "ground_truth": "2"}], splits=True)
    assert (split.prompt_field, split.answer_field) == ("problem", "ground_truth")
    with pytest.raises(ValueError, match=r"fields \['x'\].*rename that of the prompt to 'prompt'"):
        split_rows([{"x": 1}], splits=True)


def run_init(folder: Path, data: Path, model: Path, *words: str) -> int:
    return cli.main(["init", str(folder), "--data", str(data), "--model", str(model), *words])


def write_data(path: Path, rows: Sequence[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_that_has_a_config_is_left_alone(tmp_path, tiny_task, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("mine")
    data = write_data(tmp_path / "data.jsonl", rows_of(3))
    assert run_init(tmp_path / "mine", data, tiny_task / "model") == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "mine/config.yaml").read_text() == "mine"


@pytest.mark.parametrize("name", ["train.jsonl", "heldout.jsonl"])
def test_prompts_that_are_there_already_are_never_written_over(tmp_path, tiny_task, capsys, name):
    mine = write_data(tmp_path / name, rows_of(40))
    data = mine if name == "train.jsonl" else write_data(tmp_path / "data.jsonl", rows_of(40))
    before = mine.read_text()
    assert run_init(tmp_path, data, tiny_task / "model", "--verifier", "last_number") == 2
    assert f"{name} is there already" in capsys.readouterr().err
    assert mine.read_text() == before and not (tmp_path / "config.yaml").exists()


def test_answers_that_no_run_could_grade_are_refused_and_nothing_is_written(
    tmp_path, tiny_task, capsys
):
    data = write_data(tmp_path / "data.jsonl", [{"prompt": "1+1=", "answer": "two"}])
    words = ("--verifier", "last_number")
    assert run_init(tmp_path / "mine", data, tiny_task / "model", *words) == 2
    assert "answers can never be graded" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_what_it_writes_passes_the_checks_of_a_dry_run(tmp_path, tiny_task, capsys):
    data = write_data(tmp_path / "data.jsonl", [
        json.loads(line) for line in (tiny_task / "train.jsonl").read_text().splitlines()[:40]
    ])  # fmt: skip
    words = ("--verifier", "last_number")
    assert run_init(tmp_path / "mine", data, tiny_task / "model", *words) == 0
    said = capsys.readouterr().out
    assert "36 prompts to train on, 4 held out" in said
    assert cli.main(["train", str(tmp_path / "mine/config.yaml"), "--dry-run"]) == 0
    assert "# a step: 16 prompts" in capsys.readouterr().out
