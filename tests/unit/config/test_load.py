import pytest
import yaml

from megatron_ar3po.config.declared import dotted_options
from megatron_ar3po.config.load import config_from_dict, load_config, to_yaml


def write(tmp_path, name: str, text: str):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_later_files_win_over_earlier_ones_and_words_over_both(tmp_path):
    first = write(tmp_path, "a.yaml", "rollout: {num_stages: 3, responses_per_stage: 2}")
    second = write(tmp_path, "b.yaml", "rollout: {num_stages: 4}")
    config = load_config([first, second], ["rollout.responses_per_stage=5"])
    assert (config.rollout.num_stages, config.rollout.responses_per_stage) == (4, 5)


@pytest.mark.parametrize(
    ("name", "stages", "responses", "reuse", "replayed", "dynamic", "advantage"),
    [
        ("ar3po", 2, 4, True, 0.0, False, "group"),
        ("grpo", 1, 8, False, 0.0, False, "group"),
        ("dapo", 1, 8, False, 0.0, True, "group"),
        ("history", 1, 1, False, 0.5, False, "history"),
    ],
)
def test_the_name_of_the_algorithm_sets_what_nobody_else_said(
    name, stages, responses, reuse, replayed, dynamic, advantage
):
    config = load_config([], [f"algorithm.name={name}"])
    assert config.rollout.num_stages == stages
    assert config.rollout.responses_per_stage == responses
    assert config.reuse.enabled is reuse
    assert config.reuse.replay_frac == replayed
    assert config.algorithm.dynamic_sampling is dynamic
    assert config.algorithm.advantage == advantage


def test_a_stated_option_wins_over_the_preset():
    config = load_config([], ["algorithm.name=grpo", "rollout.responses_per_stage=4"])
    assert config.rollout.responses_per_stage == 4


def test_an_unknown_key_fails_and_offers_the_nearest_one():
    with pytest.raises(ValueError, match=r"rollout.num_stage=2; .*nearest .* rollout.num_stages"):
        load_config([], ["rollout.num_stage=2"])


def test_a_value_of_the_wrong_type_names_its_option():
    with pytest.raises(ValueError, match=r"rollout.num_stages=two: .*valid integer"):
        load_config([], ["rollout.num_stages=two"])


def test_a_rule_of_a_section_speaks_for_itself():
    with pytest.raises(
        ValueError, match=r"^actor.min_learning_rate=1 is above actor.learning_rate=1e-06, "
    ):
        load_config([], ["actor.min_learning_rate=1"])


def test_a_correction_of_what_the_ratio_holds_already_is_refused():
    words = ["algorithm.old_logprobs=behaviour", "algorithm.importance_sampling=token"]
    with pytest.raises(
        ValueError, match=r"importance_sampling=token .* counted twice; set .*=off or"
    ):
        load_config([], words)
    for word in words:
        load_config([], [word])


@pytest.mark.parametrize("word", ["algorithm=grpo", "algorithm=", "rollout=3"])
def test_a_section_given_as_a_value_is_refused_by_its_options(word):
    section = word.partition("=")[0]
    with pytest.raises(ValueError, match=rf"{section}=.* must be a section with the options "):
        load_config([], [word])


def test_a_name_that_is_a_list_is_refused_by_its_type():
    with pytest.raises(ValueError, match=r"algorithm.name=\[grpo,dapo\]: "):
        load_config([], ["algorithm.name=[grpo,dapo]"])


def test_a_word_without_an_equals_sign_shows_the_form():
    with pytest.raises(ValueError, match=r"'num_stages' is not of the form"):
        load_config([], ["num_stages"])


def test_a_folder_is_no_config_file(tmp_path):
    with pytest.raises(ValueError, match=rf"config {tmp_path} is a folder; name a YAML file in it"):
        load_config([tmp_path])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.yaml does not exist"):
        load_config([tmp_path / "nowhere.yaml"])


def test_a_name_made_of_digits_stays_a_name():
    assert load_config([], ["run.name=7"]).run.name == "7"


def test_a_resolved_config_loads_back_to_the_same_config():
    config = load_config([], ["algorithm.name=dapo", "servers.sglang.log_level=error"])
    assert config_from_dict(yaml.safe_load(to_yaml(config))) == config


def test_a_config_is_frozen():
    config = load_config([])
    with pytest.raises(AttributeError):
        config.run.num_steps = 3  # type: ignore[misc]


def test_options_are_listed_with_their_section():
    assert {"rollout.num_stages", "run.dir", "reuse.option"} <= set(dotted_options())
