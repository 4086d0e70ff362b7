"""Figures of a set against numbers worked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ar3po.config.schema import Config
from megatron_ar3po.evaluation.figures import SetAnswers, difference_of, figures_of, rows_of
from megatron_ar3po.evaluation.items import Item
from megatron_ar3po.evaluation.report import draw_figure, print_result
from megatron_ar3po.types import Prompt


def item(answer: str) -> Item:
    """`right`, a wrong answer, or one that was cut off ("")."""
    return Item(
        text=answer,
        tokens=len(answer) + 1,
        finish_reason="stop" if answer else "length",
        status="correct" if answer == "right" else "incorrect" if answer else "truncated",
        extracted=answer or None,
    )


def answers(*of_prompts: Sequence[str], sources: Sequence[str] = ()) -> SetAnswers:
    prompts = [
        Prompt(
            prompt_id=f"{i:02x}",
            token_ids=(1,),
            ground_truth="right",
            text=f"question {i}",
            source=sources[i] if sources else "",
            metadata={"id": f"row-{i}"},
        )
        for i in range(len(of_prompts))
    ]
    items = [[item(answer) for answer in of_prompt] for of_prompt in of_prompts]
    return SetAnswers(name="mine", config=Config(), prompts=prompts, items=items, reused=2)


def test_the_figures_of_a_set_are_those_worked_by_hand():
    """Two samples each. Right: 2, 1 (tied with a wrong one), 0 (both say x). avg@2 = (1 + 1/2 + 0) / 3 = 1/2; rates
    have s = 1/2, so the error is 0.5 / sqrt(3) = 0.288675 and, with t = 4.302653, the half width 1.242069."""
    found = figures_of(
        answers(("right", "right"), ("right", "y"), ("x", "x"), sources=("a", "a", "b"))
    )
    assert (found["prompts"], found["samples_per_prompt"]) == (3, 2)
    assert found["pass_at_1"] == 0.5
    assert found["pass_at_1_stderr"] == pytest.approx(0.288675, abs=1e-6)
    assert found["pass_at_1_interval"] == pytest.approx([0.5 - 1.242069, 0.5 + 1.242069], abs=1e-6)
    assert found["pass_at_k"] == pytest.approx({1: 0.5, 2: 2 / 3})
    assert found["maj_at_k"] == pytest.approx({1: 0.5, 2: 0.5})
    assert (found["generated"], found["reused"]) == (4, 2)
    assert found["by_source"]["a"] == {
        "prompts": 2,
        "pass_at_1": 0.75,
        "pass_at_1_stderr": 0.25,
    }
    assert found["by_source"]["b"]["pass_at_1"] == 0.0
    assert found["verdicts"] == {"correct": 3, "incorrect": 3}


def test_length_and_truncation_are_those_of_all_samples():
    found = figures_of(answers(("right", ""), ("abc", "")))
    assert found["tokens"] == 6 + 1 + 4 + 1
    assert found["length_tokens"] == 3.0
    assert found["truncated_frac"] == 0.5


def test_one_prompt_says_nothing_of_its_spread():
    assert figures_of(answers(("right", "x")))["pass_at_1_interval"] is None


def test_a_difference_is_paired_by_prompt():
    """Rates 1, 1/2, 0 against 1/2, 0, 0: differences 1/2, 1/2, 0, mean 1/3, s = 0.288675; half width 4.302653 *
    0.288675 / sqrt(3) = 0.717109. The order of the rows does not matter."""
    one = answers(("right", "right"), ("right", "x"), ("x", "x"))
    other = answers(("right", "x"), ("x", "y"), ("x", "x"))
    turned = replace(other, prompts=other.prompts[::-1], items=other.items[::-1])
    for theirs in (other, turned):
        found = difference_of(one, theirs)
        assert found["prompts"] == 3
        assert found["pass_at_1"]["difference"] == pytest.approx(1 / 3)
        expected = [1 / 3 - 0.717109, 1 / 3 + 0.717109]
        assert found["pass_at_1"]["interval"] == pytest.approx(expected, abs=1e-6)
        assert found["pass_at_2"]["difference"] == pytest.approx(1 / 3)
        # Majorities: 1, tie, 0 against tie, 0, 0.
        assert found["maj_at_2"]["difference"] == pytest.approx(1 / 3)


def test_prompts_that_only_one_has_are_left_out_and_none_in_common_is_refused():
    one = answers(("right",), ("x",))
    other = replace(one, prompts=one.prompts[:1], items=[[item("x")]])
    assert difference_of(one, other)["prompts"] == 1
    apart = replace(other, prompts=[replace(one.prompts[0], metadata={"id": "elsewhere"})])
    with pytest.raises(ValueError, match="set mine: the two have no prompt in common"):
        difference_of(one, apart)


def test_a_row_without_an_id_is_known_by_what_it_asks_and_what_is_right():
    [prompt] = answers(("right",)).prompts
    bare = replace(prompt, metadata={}, prompt_id="other", token_ids=(9,))
    assert rows_of([prompt]) == ["row-0"]
    assert rows_of([bare]) == rows_of([replace(bare, token_ids=(1,))])
    assert rows_of([bare]) != rows_of([replace(bare, ground_truth="left")])


def test_rows_that_share_an_id_are_told_apart_by_what_they_ask():
    """As where a file is made of two sets that both count from 1: each is paired with itself."""
    one = answers(("right",), ("x",))
    twins = [replace(prompt, metadata={"id": 1}) for prompt in one.prompts]
    assert len(set(rows_of(twins))) == 2
    mine = replace(one, prompts=twins)
    turned = replace(mine, prompts=twins[::-1], items=one.items[::-1])
    found = difference_of(mine, turned)
    assert (found["prompts"], found["pass_at_1"]["difference"]) == (2, 0.0)
    assert found["pass_at_1"]["interval"] == [0.0, 0.0]


def test_a_figure_is_drawn_where_all_prompts_have_one_rate(tmp_path):
    """1 of 3 each, of 27 prompts: two ways to their mean differ in the last digit."""
    found = figures_of(answers(*[("right", "x", "y")] * 27))
    result = {"policy": "p", "sets": {"mine": found}}
    draw_figure(result, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_what_a_file_calls_its_sources_is_printed_as_it_stands(capsys):
    """[/s] would be the end of a style, and [b] one."""
    sources = ("[/s]", "[b]", ":x:")
    found = figures_of(answers(*[("right",)] * 3, sources=sources))
    print_result({"policy": "runs/[/b]", "seconds": 1.0, "sets": {"mine": found}}, Path("out[/b]"))
    said = capsys.readouterr().out
    for text in (*sources, "runs/[/b]", "files in out[/b]"):
        assert text in said
