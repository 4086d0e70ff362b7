"""What a person sees while a run works."""

from __future__ import annotations

import doctest
import io
import logging
import threading

import pytest
from rich.console import Console

from megatron_ar3po.observability import progress
from megatron_ar3po.observability.next_steps import describe_next
from megatron_ar3po.observability.progress import RunProgress, step_facts
from megatron_ar3po.observability.waiting import telling

WAIT_S = 30.0


def test_worked_example_of_the_docstring():
    assert doctest.testmod(progress).failed == 0


def test_a_steps_line_shows_what_moves_and_no_loss_that_is_0_by_construction():
    row = {
        "reward/mean": 0.25,
        "eval/pass_at_1": 0.5,
        "rollout/responses_per_prompt": 5.5,
        "actor/entropy": 0.164,
        "actor/clip_frac": 0.02,
        "actor/loss": 1e-9,
        "reuse/borrowed_groups": 3,
    }
    assert step_facts(row) == (
        "reward 0.250  pass@1 0.500  resp/prompt 5.50  entropy 0.164  clip 2.0%  borrowed 3"
    )


def bar_of(console: Console) -> RunProgress:
    shown = RunProgress(4, "bar", console=console)
    shown.start(1)
    return shown


def test_the_bar_says_that_an_evaluation_is_under_way_and_then_the_step_again():
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, force_interactive=True)
    shown = bar_of(console)
    shown.step_done(2, {"reward/mean": 0.25})
    with shown.doing("evaluating after step 2"):
        out.truncate(0)
        shown._bar.refresh()  # type: ignore[union-attr]
        during = out.getvalue()
    out.truncate(0)
    shown._bar.refresh()  # type: ignore[union-attr]
    after = out.getvalue()
    shown.stop()
    assert "evaluating after step 2 ...  reward 0.250" in during
    assert "reward 0.250" in after and "evaluating" not in after


def test_without_a_bar_an_evaluation_is_a_line_with_its_time(caplog):
    shown = RunProgress(4, "plain")
    with caplog.at_level(logging.INFO), shown.doing("evaluating after step 2"):
        pass
    assert [r.getMessage() for r in caplog.records] == ["evaluating after step 2: 0.0 s"]


def test_what_takes_long_is_told_before_its_end():
    said: list[str] = []
    reminded = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        reminded.set()

    times = iter([100.0, 115.0, 131.5])
    with telling("reading", say, every_s=0.01, clock=lambda: next(times, 131.5)):
        assert reminded.wait(WAIT_S)
    assert said[0] == "reading: 15 s so far"
    assert said[-1] == "reading: 31.5 s"


def test_what_fails_is_not_told_as_done():
    said: list[str] = []
    with pytest.raises(ValueError, match="no prompts"), telling("reading", said.append):
        raise ValueError("no prompts")
    assert said == []


def test_the_last_line_says_what_to_look_at_next(tmp_path):
    assert describe_next(tmp_path, has_checkpoint=True, has_held_out=True) == (
        f"next: ar3po report {tmp_path}; ar3po evaluate {tmp_path} --samples 16; "
        f"ar3po export {tmp_path} --out DIR makes the policy a Hugging Face folder"
    )


def test_the_last_line_names_the_folder_that_was_exported_and_a_file_where_none_is_held_out(
    tmp_path,
):
    (tmp_path / "hf").mkdir()
    said = describe_next(tmp_path, has_checkpoint=True, has_held_out=False)
    assert f"ar3po evaluate {tmp_path} --data FILE --samples 16" in said
    assert said.endswith(f"the policy as a Hugging Face folder is {tmp_path}/hf")


def test_a_run_without_a_checkpoint_is_only_reported(tmp_path):
    said = describe_next(tmp_path, has_checkpoint=False, has_held_out=True)
    assert said == f"next: ar3po report {tmp_path}"
