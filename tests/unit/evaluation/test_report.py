"""The result of an evaluation as people read it."""

from __future__ import annotations

from pathlib import Path

from megatron_ar3po.config.schema import Config
from megatron_ar3po.evaluation.figures import SetAnswers, figures_of
from megatron_ar3po.evaluation.items import Item
from megatron_ar3po.evaluation.report import print_result
from megatron_ar3po.types import Prompt


def test_what_a_file_calls_its_sources_is_printed_as_it_stands(capsys):
    """[/s] would be the end of a style, and [b] one."""
    prompts = [
        Prompt(prompt_id=source, token_ids=(1,), ground_truth="1", source=source)
        for source in ("[/s]", "[b]", ":x:")
    ]
    right = Item(text="1", tokens=1, finish_reason="stop", status="correct", extracted="1")
    answers = SetAnswers(
        name="mine", config=Config(), prompts=prompts, items=[[right]] * 3, reused=0
    )
    result = {"policy": "runs/[/b]", "seconds": 1.0, "sets": {"mine": figures_of(answers)}}
    print_result(result, Path("out[/b]"))
    said = capsys.readouterr().out
    for text in ("[/s]", "[b]", ":x:", "runs/[/b]", "files in out[/b]"):
        assert text in said
