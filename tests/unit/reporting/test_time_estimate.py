"""Seconds of a step and what it samples: small cases by hand, and the shares of two runs that docs/performance.md has
measured on a CPU. Not exercised: whether the stated efficiencies hold on a GPU."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_ar3po.config.command_line import parse_with_late_words
from megatron_ar3po.config.load import load_config
from megatron_ar3po.model_shape import ModelShape, read_model_shape, read_policy_shape
from megatron_ar3po.reporting.devices import CPU_THREAD, GPUS, Device
from megatron_ar3po.reporting.memory_estimate import GIB, estimate_memory
from megatron_ar3po.reporting.pass_rates import PassRates
from megatron_ar3po.reporting.pass_rates import read_pass_rates as read_words
from megatron_ar3po.reporting.plan import add_plan_parser
from megatron_ar3po.reporting.rollout_forecast import Sampled, draw_lengths, play_rollout
from megatron_ar3po.reporting.time_estimate import (
    Lengths,
    Setting,
    expect_responses,
    forecast_step,
    iteration_seconds,
    train_flops,
    train_seconds,
    turn_seconds,
    update_seconds,
)
from megatron_ar3po.wiring.layout_checks import layout_of_job

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
# Of SmolLM2-135M and of the model of tiny_sum, whose folders need not be here.
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def setting_of(
    folder: str, *words: str, ranks: int, device: Device, shape: ModelShape | None = None
) -> Setting:
    config = load_config([EXAMPLES / folder / "config.yaml"], words)
    layout = layout_of_job(config, world_size=ranks)
    if shape is None:
        shape = read_policy_shape(EXAMPLES / folder / "model_config.json")
    return Setting(
        config=config,
        shape=shape,
        layout=layout,
        gpus_per_node=min(8, ranks),
        memory=estimate_memory(
            config, shape, layout, gpus_per_node=min(8, ranks), gpu_bytes=79 * GIB
        ),
        device=device,
    )


def read_pass_rates(words: str) -> PassRates:
    rates = read_words(words)
    assert rates is not None
    return rates


@pytest.fixture(scope="module")
def seven_b() -> Setting:
    """One node, TP 2, four replicas."""
    return setting_of("qwen2.5_7b_dapo_math", ranks=8, device=GPUS["h100"])


# What is sampled


@pytest.mark.parametrize(
    ("rates", "of_prompt"),
    [
        ("0", 8.0),
        ("1", 4.0),
        ("0.5", 4.25),  # 4 + 4 / 16
        ("beta:1,1", 4.8),  # of a uniform p, E[(1 - p)^4] = 1/5
        ("beta:0.5*1,1+0.5*1,3", 5.5428571),  # 4 + 4 (1/5 + 3/7 x 4/8 x 5/9 x 6/10 ...) / 2, below
    ],
)
def test_a_prompt_gets_the_second_stage_when_the_first_has_failed(rates, of_prompt):
    """k sum over stages of E[(1 - p)^(k s)]. Beta(1, 3): (1 - p)^4 has 3/4 x 4/5 x 5/6 x 6/7 = 3/7."""
    config = load_config([EXAMPLES / "qwen2.5_7b_dapo_math" / "config.yaml"], [])
    if rates.startswith("beta:0.5*"):
        of_prompt = 4 + 4 * (1 / 5 + 3 / 7) / 2
    assert expect_responses(config, read_pass_rates(rates)) == pytest.approx(256 * of_prompt)


def test_counts_of_a_file_are_used_without_bias_and_rates_as_they_are(tmp_path):
    """3 of 8 correct: of all choices of four C(5, 4) / C(8, 4) = 5/70 hold wrong ones alone."""
    counts, rates = tmp_path / "counts.jsonl", tmp_path / "rates.txt"
    counts.write_text('{"responses": 8, "correct": 3}\n\n')
    rates.write_text('{"pass_rate": 0}\n{"pass_rate": 1}\n')
    assert read_pass_rates(str(counts)).expect_unsolved(4) == pytest.approx(5 / 70)
    assert read_pass_rates(str(rates)).expect_unsolved(4) == 0.5
    assert read_pass_rates(str(rates)).expect_all_correct(8) == 0.5
    assert sorted(read_pass_rates(str(rates)).draw(4)) == [0, 0, 1, 1]


def test_counts_that_cannot_be_are_named(tmp_path):
    (tmp_path / "rates").write_text('{"responses": 2, "correct": 3}\n')
    with pytest.raises(ValueError, match="line 1: 3 correct of 2 responses cannot be"):
        read_pass_rates(str(tmp_path / "rates"))


@pytest.mark.parametrize("words", ["nowhere", "beta:1", "beta:0,1", "beta:x,1", "-0.1"])
def test_words_that_are_no_pass_rates_say_what_would_be(words):
    with pytest.raises(ValueError, match=r"use a number such as 0\.25, beta:0\.4,0\.6"):
        read_pass_rates(words)


def test_an_earlier_run_knows_pass_rates_and_lengths(tmp_path):
    """Two prompts in stages of 4: one solved by 2 of 4, so that none of its choices of four hold wrong ones alone, one
    by none of 8."""
    (tmp_path / "ledger").mkdir()
    (tmp_path / "resolved_config.yaml").write_text("run:\n  name: earlier\n")
    rows = [
        {"responses": 4, "response_tokens": 40, "correct": 2, "stages": 1, "prompt_id": "a"},
        {"responses": 8, "response_tokens": 160, "correct": 0, "stages": 2, "prompt_id": "b"},
    ]
    text = "".join(
        json.dumps({"kind": "prompt", "step": 1, "position": at, **row}) + "\n"
        for at, row in enumerate(rows)
    )
    (tmp_path / "ledger" / "dp00.jsonl").write_text(text)
    rates = read_pass_rates(str(tmp_path))
    assert rates.expect_unsolved(4) == 0.5
    assert rates.mean_tokens == 15


@pytest.mark.parametrize("option", ["cancel_solved: true", "stage_rule: balance"])
def test_an_earlier_run_whose_stages_are_not_known_is_refused(tmp_path, option):
    """8 responses, 4 of them correct, of two stages: how many of the first were, its ledger does not say."""
    (tmp_path / "ledger").mkdir()
    (tmp_path / "resolved_config.yaml").write_text(f"rollout:\n  {option}\n")
    row = {"responses": 8, "response_tokens": 40, "correct": 4, "stages": 2, "prompt_id": "a"}
    row = {"kind": "prompt", "step": 1, "position": 0, **row}
    (tmp_path / "ledger" / "dp00.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=r"sampled with rollout\.\w+=\w+: .*name another run"):
        read_pass_rates(str(tmp_path))


# One server, iteration by iteration


def play(rates: list[float], **changes: Any) -> Sampled:
    """Lengths of 10, an iteration of a second, 8 at once, nothing to read."""
    given: dict[str, Any] = {
        "lengths": [10],
        "stage_sizes": (4, 4),
        "slots": 8,
        "iteration_s": lambda batch: 1.0,
        "admit_s": 0.0,
    }
    return play_rollout(rates, **(given | changes))


def test_two_waves_of_a_full_server_take_twice_as_long():
    """Four solved prompts, 16 responses, 8 at once: twice 10 iterations and one that reads them."""
    sampled = play([1.0] * 4)
    assert (sampled.seconds, sampled.responses, sampled.tokens) == (22, 16, 160)
    assert sampled.mixed_responses == 0


def test_an_unsolved_prompt_goes_on_behind_its_first_stage():
    sampled = play([0.0])
    assert (sampled.seconds, sampled.responses) == (22, 8)


def test_a_slot_is_filled_when_a_response_ends_and_reading_holds_all_up():
    """Lengths 5, 10, 10 with two slots, one response a prompt: the third begins at the fifth iteration, so the last
    ends at 15; two times of reading (1 s each, and 2 s a prompt): 15 + 2 + 6."""
    sampled = play([1.0] * 3, stage_sizes=(1,), slots=2, lengths=[5, 10, 10], admit_s=2.0)
    assert sampled.seconds == 15 + 2 + 6


def test_an_iteration_takes_as_long_as_what_is_in_it():
    sampled = play([1.0], slots=4, iteration_s=lambda batch: float(batch))
    assert sampled.seconds == 4 + 10 * 4


def test_lengths_have_the_mean_asked_for_behind_the_cut():
    lengths = draw_lengths(4096, mean=1000, most=4096)
    assert lengths.max() == 4096 and lengths.min() >= 1
    assert lengths.mean() == pytest.approx(1000, rel=0.01)


# Seconds by hand


def test_a_decode_iteration_reads_weights_and_cache(seven_b):
    """7.6156 billion parameters of 2 bytes on two GPUs, and 64 x 1,000 tokens of 2 x 28 x 2 x 128 x 2 bytes, at 0.6 of
    3.35 TB/s; 28 layers x 20 us; 2 ms and 64 x 10 us."""
    read = 7_615_616_512 + 64 * 1000 * 28_672
    by_hand = read / (0.6 * 3.35e12) + 28 * 2e-5 + 2e-3 + 64 * 1e-5
    assert iteration_seconds(seven_b, 64, 1000) == pytest.approx(by_hand)


def test_a_large_batch_is_bound_by_its_products(seven_b):
    """20,000 sequences of no context: 2 x 7.6156e9 / 2 x 20,000 operations at half of 989 TFLOP/s."""
    by_hand = 7_615_616_512 * 20_000 / (0.5 * 989e12) + 28 * 2e-5 + 2e-3 + 20_000 * 1e-5
    assert iteration_seconds(seven_b, 20_000, 0) == pytest.approx(by_hand)


def test_operations_of_an_update(seven_b):
    """100 tokens of one sequence, 80 of a response. All parameters but two tables and the last norm; attention 2 x 28 x
    100 x 3,584 a token; the output layer 152,064 x 3,584. Full recompute, and three of four mini-batches have a pass
    before."""
    layers = 7_615_616_512 - 2 * 152_064 * 3584 - 3584
    forward = 100 * (2 * layers + 2 * 28 * 100 * 3584)
    output = 80 * 2 * 152_064 * 3584
    by_hand = (4 + 0.75) * (forward + output)
    assert train_flops(seven_b, 100, 80, 100) == pytest.approx(by_hand)
    behaviour = replace(
        seven_b, config=load_config(
            [EXAMPLES / "qwen2.5_7b_dapo_math" / "config.yaml"],
            ["algorithm.old_logprobs=behaviour", "algorithm.importance_sampling=off"],
        ),
    )  # fmt: skip
    assert train_flops(behaviour, 100, 80, 100) == pytest.approx(4 * (forward + output))


def test_replayed_rows_take_their_time(seven_b):
    """A share of a half replays as many rows as were sampled."""
    path = EXAMPLES / "qwen2.5_7b_dapo_math" / "config.yaml"
    replayed = replace(seven_b, config=load_config([path], ["reuse.replay_frac=0.5"]))
    assert train_seconds(replayed, 64, 64_000, 200) == train_seconds(seven_b, 128, 128_000, 200)


def test_a_second_pass_over_the_batch_takes_it_all_again(seven_b):
    """And old log-probs are then a forward pass of all mini-batches, twice; there are 8 updates, not 4."""
    twice = replace(
        seven_b, config=load_config(
            [EXAMPLES / "qwen2.5_7b_dapo_math" / "config.yaml"], ["algorithm.num_epochs=2"]
        ),
    )  # fmt: skip
    once = train_flops(seven_b, 100, 80, 100) / (4 + 0.75)
    assert train_flops(twice, 100, 80, 100) == pytest.approx((8 + 2) * once)
    seconds = train_seconds(seven_b, 100, 8000, 100), train_seconds(twice, 100, 8000, 100)
    assert 2 * seconds[0] < seconds[1] < 2.2 * seconds[0]


def test_an_update_talks_inside_the_node_and_reads_its_share(seven_b):
    """Of each parameter of a rank, with four replicas: 6 bytes x 3/4 over 0.7 of 450 GB/s, 28 bytes / 4 at 0.6 of 3.35
    TB/s."""
    held = seven_b.shape.parameters_of_largest_rank(2, 1)
    by_hand = held * 6 * 0.75 / (0.7 * 450e9) + held * 7 / (0.6 * 3.35e12)
    assert update_seconds(seven_b) == pytest.approx(by_hand)


def test_parked_bytes_go_to_the_host_and_back(seven_b):
    """2 bytes of weights and 12 / 4 of the optimizer a parameter, twice, over 0.7 of 64 GB/s."""
    held = seven_b.shape.parameters_of_largest_rank(2, 1)
    assert turn_seconds(seven_b) == pytest.approx(0.5 + 2 * 5 * held / (0.7 * 64e9))


# Beside what was measured


@pytest.mark.parametrize(
    ("folder", "words", "rates", "lengths", "measured"),
    [
        (
            "tiny_sum",
            ["algorithm.name=grpo"],
            "0.37",
            Lengths(prompt=8, response=4.5),
            {"rollout": 366, "train": 42, "publish": 40, "turns": 32, "other": 27},
        ),
        (
            "smollm2_arithmetic",
            ["algorithm.name=grpo", "rollout.responses_per_stage=4", "run.deterministic=false"],
            "0.5",
            Lengths(prompt=48, response=12),
            {"rollout": 12_150, "train": 23_600, "publish": 290, "turns": 480, "other": 0},
        ),
    ],
)
def test_the_phases_have_the_shares_of_a_measured_run_within_10_points(
    folder, words, rates, lengths, measured, tiny_task, tmp_path
):
    """ms of a step in docs/performance.md, "Where a run's seconds go": 16 x 8 responses of tiny_sum, and 8 x 4 of
    SmolLM2-135M with a reward that trains in every step."""
    model = tiny_task / "model"
    if folder == "smollm2_arithmetic":
        model = tmp_path
        (model / "config.json").write_text(json.dumps(SMOLLM2))
    setting = setting_of(folder, *words, ranks=1, device=CPU_THREAD, shape=read_model_shape(model))
    step = forecast_step(setting, read_pass_rates(rates), lengths)
    shares = {phase: seconds / step.total_s for phase, seconds in step.seconds.items()}
    for phase, ms in measured.items():
        assert shares[phase] == pytest.approx(ms / sum(measured.values()), abs=0.10), phase


# The command


def run_plan(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_plan_parser(parser.add_subparsers())
    config = str(EXAMPLES / "qwen2.5_7b_dapo_math" / "config.yaml")
    arguments = parse_with_late_words(parser, ["plan", config, *words])
    return arguments.command(arguments)


def test_the_command_says_seconds_by_phase_and_gpu_hours_by_method(capsys):
    """Beta(1, 1): 256 x 4.8 responses; GRPO 256 x 8. DAPO keeps 1 - 2/9 of groups of 8: 256 of 256 never come in one
    round, and 512 hold enough of them."""
    assert run_plan("--gpu", "h100", "--pass-rates", "beta:1,1", "--response-tokens=500") == 0
    told = capsys.readouterr().out
    assert re.search(r"expected   over beta:1,1, mean 0\.(499|50)", told)
    table = told[told.index("method ") :]
    rows = {line.split()[0]: line.split() for line in table.splitlines() if line.strip()}
    assert "pass rates beta:1,1; mean tokens: prompt 256, response 500" in told
    assert rows["ar3po"][1:3] == ["1,229", "4.80"]
    assert rows["grpo"][1:3] == ["2,048", "8.00"]
    assert rows["dapo"][1:3] == ["4,096", "16.00"]
    hours = float(rows["grpo"][-1])
    assert hours == pytest.approx(float(rows["grpo"][-2]) * 8 * 400 / 3600, rel=0.01)


def test_what_nobody_stated_is_called_assumed(capsys):
    run_plan("--gpu", "h100")
    assert (
        "pass rates beta:0.4,0.6 (assumed); mean tokens: prompt 256, response 1024 (assumed)"
        in (capsys.readouterr().out)
    )


def test_a_method_that_the_words_exclude_is_left_out_with_the_reason(capsys):
    run_plan("--gpu", "h100", "rollout.num_stages=4")
    (row,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("grpo")]
    assert "left out: algorithm.name=grpo samples in one stage" in row


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--response-tokens=9"], "--response-tokens: seconds of a step need a kind of GPU; add"),
        (["--gpu=h100", "--train-efficiency=1.2"], "--train-efficiency 1.2 is no share of a peak"),
        (["--gpu=h100", "--response-tokens=5000"], "no mean length of responses of 1 to 4096"),
        (["--gpu=h100", "--prompt-tokens=5000"], "no mean length of prompts of 1 to 1024"),
    ],
)
def test_words_of_the_time_that_cannot_be_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        run_plan(*words)


def test_the_memory_of_a_named_gpu_is_that_gpus(capsys):
    run_plan("--gpu", "h200")
    assert "1 x 8 GPUs of 139 GiB" in capsys.readouterr().out
