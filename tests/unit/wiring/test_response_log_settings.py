"""Which changes of a config make a logged response one of another run."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ar3po.config.load import load_config
from megatron_ar3po.wiring.response_log import sampling_digest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    return folder


def digest(model: Path, *words: str, stop: tuple[int, ...] = (2,)) -> str:
    config = load_config([], [f"model.path={model}", "data.path=prompts.jsonl", *words])
    return sampling_digest(config, stop)


@pytest.mark.parametrize(
    "word",
    [
        "rollout.temperature=0.7",
        "rollout.top_p=0.9",
        "rollout.max_response_tokens=77",
        "run.seed=5",
        "run.deterministic=true",
        "model.dtype=bfloat16",
    ],
)
def test_what_determines_a_response_makes_it_another(model, word):
    assert digest(model, word) != digest(model)


def test_other_stop_tokens_or_other_weights_make_it_another(model):
    before = digest(model)
    assert digest(model, stop=(2, 3)) != before
    (model / "model.safetensors").write_bytes(bytes(reversed(range(256))) * 100)
    assert digest(model) != before


@pytest.mark.parametrize(
    "word",
    [
        "run.num_steps=7",
        "rollout.stage_scheduling=barrier",
        "servers.max_concurrent_requests=3",
        "actor.tensor_parallel_size=2",
        "rewards.incorrect=-1",
    ],
)
def test_what_does_not_determine_it_leaves_it_as_it_is(model, word):
    """Rewards are another matter: the response is graded again."""
    assert digest(model, word) == digest(model)
