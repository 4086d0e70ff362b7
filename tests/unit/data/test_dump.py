"""A step's groups in a file. That a run's dump trains as the run did is shown in tests/e2e/test_main_job.py."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from fakes.algorithm_cases import group, make_errored, stored_answer
from fakes.ranks import OneRank

from megatron_ar3po.algorithm.response_reuse import with_borrowed
from megatron_ar3po.data.dump import StepDump, load_groups, save_groups
from megatron_ar3po.types import ResponseGroup


def plain(whole: ResponseGroup) -> object:
    """Comparable: arrays as lists."""

    def to_lists(value: object) -> object:
        if isinstance(value, dict):
            return {name: to_lists(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [to_lists(part) for part in value]
        return (str(value.dtype), value.tolist()) if isinstance(value, np.ndarray) else value

    return to_lists(asdict(whole))


def test_a_dump_comes_back_whole_and_by_position(tmp_path):
    """A group with metadata, a KL penalty and a response that the verifier failed for, and one that has borrowed."""
    first = group([1.0, 0.5], position=0)
    first = replace(
        first,
        prompt=replace(first.prompt, metadata={"level": 3, "tags": ["a"]}),
        responses=(replace(first.responses[0], kl_penalty=0.25), first.responses[1]),
        stop_reason="solved",
        left_out=(make_errored(),),
    )
    lent = stored_answer(position=4, num_tokens=5)
    rescued = with_borrowed(group([0] * 4, position=4), lent, seed=0, step=5)
    path = tmp_path / "dumps" / "step_00001.pt"
    save_groups(path, [rescued, first], step=5, policy_version=4)
    back = load_groups(path)
    assert [plain(g) for g in back] == [plain(first), plain(rescued)]
    assert back[0].prompt.token_ids == (1, 2)
    assert back[1].num_borrowed == 1


def test_only_the_steps_asked_for_are_dumped(tmp_path):
    dump = StepDump(tmp_path / "dumps", OneRank(), steps=[2])  # type: ignore[arg-type]
    for step in (1, 2, 3):
        dump.write([group([1, 0])], step=step, policy_version=step - 1)
    assert [path.name for path in (tmp_path / "dumps").iterdir()] == ["step_00002.pt"]


@pytest.mark.parametrize(
    "content", [{"weights": 1}, {"format": 1, "samples": []}], ids=["no dump", "samples of before"]
)
def test_a_file_that_is_no_dump_of_this_format_is_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"is not a dumped step of format 2; dump one with"):
        load_groups(path)
