import pytest
from fakes.model_config import write_model_config

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.validate import validate, warnings_of
from megatron_ar3po.distributed.layout import ParallelLayout


@pytest.fixture
def words(tmp_path):
    write_model_config(tmp_path, max_position_embeddings=66)
    (tmp_path / "train.jsonl").write_text("{}\n")
    return [
        f"model.path={tmp_path}",
        f"data.path={tmp_path}/train.jsonl",
        "data.max_prompt_tokens=16",
        "rollout.max_response_tokens=8",
    ]


def check(words, *more, world_size=0) -> list[str]:
    """The warnings."""
    config = load_config([], [*words, *more])
    actor = config.actor
    validate(
        config,
        ParallelLayout(
            world_size=world_size or actor.replica_size,
            tensor_parallel_size=actor.tensor_parallel_size,
            pipeline_parallel_size=actor.pipeline_parallel_size,
            context_parallel_size=actor.context_parallel_size,
        ),
    )
    return warnings_of(config)


def test_a_good_config_passes_without_a_word(words):
    assert check(words) == []
    layout = "actor.tensor_parallel_size=2", "actor.pipeline_parallel_size=2"
    assert check(words, *layout, world_size=8) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["run.deterministic=true", "rollout.cancel_solved=true"],
            r"cancel_solved=true cuts off .* set rollout.cancel_solved=false",
        ),
        (
            ["run.deterministic=true", "rollout.max_tokens_per_step=9000"],
            r"max_tokens_per_step=9000 .* set rollout.stage_scheduling=barrier or",
        ),
        (["algorithm.name=grpo", "rollout.num_stages=2"], r"name=grpo .* rollout.num_stages=2"),
        (["algorithm.name=dapo", "reuse.enabled=true"], r"name=dapo .* reuse.enabled=true"),
        (
            ["rollout.num_stages=1", "rollout.responses_per_stage=1"],
            r"say nothing .*=group .* use at least 2, or algorithm.advantage=history",
        ),
        (
            ["algorithm.name=history", "algorithm.advantage=rloo"],
            r"name=history .* algorithm.advantage=rloo; leave it unset",
        ),
        (
            ["rollout.stage_rule=balance", "rollout.cancel_solved=true"],
            r"stage_rule=balance .* set rollout.cancel_solved=false",
        ),
        (
            ["reuse.replay_frac=0.5", "algorithm.kl_in=reward", "algorithm.kl_coef=0.1"],
            r"kl_in=reward makes .* reuse.replay_frac=0.5 .* set algorithm.kl_in=loss or",
        ),
        (["reuse.replay_frac=0.5", "reuse.replay_window=0"], r"replay_window=0 holds no row"),
        (
            ["data.selection=thompson", "data.exploration_frac=0"],
            r"exploration_frac=0 with data.selection=thompson starves",
        ),
        (["model.path=/nowhere"], r"model.path=/nowhere holds no config.json"),
        (["data.path=/nowhere.jsonl"], r"data.path=/nowhere.jsonl is no file"),
        (["evaluation.path=/nowhere.jsonl"], r"evaluation.path=/nowhere.jsonl is no file"),
        (["data.max_prompt_tokens=60"], r"=60 .*=8 exceed the context .*=66"),
        (["actor.max_tokens_per_microbatch=20"], r"raise actor.max_tokens_per_microbatch .* 24"),
        (["actor.tensor_parallel_size=4"], r"=4 does not divide num_key_value_heads=2 .* 1, 2"),
        (["actor.pipeline_parallel_size=3"], r"=3 does not divide num_hidden_layers=2 .* 1, 2"),
        (
            ["actor.context_parallel_size=2", "algorithm.policy_loss=gspo"],
            r"policy_loss=gspo .* actor.context_parallel_size=2 cuts; use ppo",
        ),
        (
            ["actor.context_parallel_size=2", "algorithm.importance_sampling=sequence"],
            r"importance_sampling=sequence .* actor.context_parallel_size=2 cuts; use token",
        ),
        (["debug.mode=train_only"], r"debug.replay_path=\(empty\) is no file"),
    ],
)
def test_a_clash_between_sections_names_both_sides_and_the_way_out(words, more, message):
    with pytest.raises(ValueError, match=message):
        check(words, *more)


def test_a_change_to_allow_must_be_of_an_option(words):
    allowed = "run.allow_changed=[run.seed,actor.megatron.attention_dropout,servers.sglang]"
    assert check(words, allowed) == []
    with pytest.raises(
        ValueError, match=r"names rollout\.temprature, .* nearest one is rollout\.tem"
    ):
        check(words, "run.allow_changed=[rollout.temprature]")
    with pytest.raises(ValueError, match=r"names rollout, which is no option"):
        check(words, "run.allow_changed=[rollout]")


def test_fewer_prompts_than_replicas_are_refused(words):
    with pytest.raises(ValueError, match=r"prompts_per_step=3 is below the data-parallel size 4"):
        check(words, "rollout.prompts_per_step=3", world_size=4)


def test_an_option_without_effect_is_said(words):
    lines = warnings_of(load_config([], [*words, "reuse.enabled=false"]))
    assert any("reuse.* has no effect" in line for line in lines)
    lines = warnings_of(load_config([], [*words, "reuse.enabled=false", "reuse.replay_frac=0.5"]))
    assert any("reuse.* but reuse.replay_* has no effect" in line for line in lines)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (
            ["algorithm.dynamic_sampling=true", "reuse.enabled=true"],
            "before it could borrow",
        ),
        (["algorithm.downsample_to=8"], "a prompt gets at most 8 responses"),
        (["algorithm.advantage=rloo", "algorithm.advantage_std=sample"], "advantage_std=sample"),
        (["algorithm.history_prior_weight=2"], "history_prior_weight=2.0 has no effect"),
        (["data.exploration_frac=0.5"], "exploration_frac=0.5 has no effect"),
        (["rollout.history_success_frac=0.1"], "no effect with rollout.stage_rule=fixed"),
        (["rollout.stage_rule=history", "rollout.num_stages=1"], "no effect: there is one stage"),
    ],
)
def test_a_choice_of_the_objective_that_does_nothing_is_warned_of(words, chosen, said):
    assert any(said in line for line in warnings_of(load_config([], [*words, *chosen])))
    assert not any(said in line for line in warnings_of(load_config([], words)))


def test_a_server_that_may_load_longer_than_the_ranks_wait_for_each_other_is_told(words):
    def said(*more):
        return any(
            "start_timeout_s=1800" in x for x in warnings_of(load_config([], [*words, *more]))
        )

    assert said("servers.start_timeout_s=1800")  # run.collective_timeout_s is 1800
    assert not said("servers.start_timeout_s=1800", "run.collective_timeout_s=3600")


def test_a_long_run_without_checkpoints_is_told_what_its_log_of_responses_may_come_to(words):
    """64 prompts x 8 responses x (11 x 4096 + 600) bytes are 23.4 MB a step and 2.3 GB in 100; four rounds of dynamic
    sampling take four times that. 40 steps stay below 1 GB."""
    large = [*words, "rollout.prompts_per_step=64", "rollout.max_response_tokens=4096"]

    def said(*more):
        lines = warnings_of(load_config([], [*large, *more]))
        return [line for line in lines if line.startswith("checkpoint.every_steps=0")]

    (line,) = said("run.num_steps=100")
    assert "up to 23.4 MB a step and 2.3 GB in all" in line
    dynamic = "algorithm.dynamic_sampling=true", "algorithm.max_sampling_rounds=4"
    (line,) = said("run.num_steps=100", "reuse.enabled=false", *dynamic)
    assert "up to 93.5 MB a step and 9.4 GB in all" in line
    assert said("run.num_steps=40") == []
    assert said("run.num_steps=100", "checkpoint.every_steps=10") == []
    assert said("run.num_steps=100", "debug.mode=train_only") == []


def test_a_dumped_step_is_trained_on_with_a_kl_penalty_in_its_rewards(words, tmp_path):
    """The dump holds whole groups, so their advantages can be made anew."""
    dump = tmp_path / "step_00001.pt"
    dump.touch()
    replay = ["debug.mode=train_only", f"debug.replay_path={dump}"]
    assert check(words, *replay, "algorithm.kl_in=reward", "algorithm.kl_coef=0.1") == []
