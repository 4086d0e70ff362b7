"""`~` is a home folder wherever a path is written."""

import argparse

import pytest

from megatron_ar3po.config.declared import dotted_options
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import expand_home, parse_path
from megatron_ar3po.train import read_arguments


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


path_options = [name for name in dotted_options() if name.endswith(("path", "dir"))]


def test_these_are_the_paths():
    assert path_options == [
        *("run.dir", "model.path", "model.megatron_path", "data.path", "data.cache_dir"),
        "weight_sync.disk_dir",
        *("evaluation.path", "debug.replay_path"),
    ]


@pytest.mark.parametrize("option", path_options)
def test_the_home_folder_is_put_in(option, home):
    section, name = option.split(".")
    config = load_config([], [f"{option}=~/x y"])
    assert getattr(getattr(config, section), name) == f"{home}/x y"


def test_it_is_put_into_options_that_are_passed_through(home):
    words = ["servers.sglang.chat_template=~/t", "servers.sglang.json_model_override_args=~"]
    config = load_config([], [*words, "actor.megatron.a=[~/m,1]"])
    assert config.servers.sglang["chat_template"] == f"{home}/t"
    assert config.actor.megatron == {"a": [f"{home}/m", 1]}


def test_a_config_file_may_lie_there(home):
    (home / "c.yaml").write_text("run: {num_steps: 7}\n")
    assert load_config(["~/c.yaml"]).run.num_steps == 7


def test_nobodys_home_is_refused_by_option():
    with pytest.raises(
        ValueError, match=r"^run\.dir=~nobody7/x starts with ~nobody7, .*\./~nobody7"
    ):
        load_config([], ["run.dir=~nobody7/x"])
    with pytest.raises(argparse.ArgumentTypeError, match="~nobody7"):
        parse_path("~nobody7/x")
    assert expand_home("./~nobody7/x") == "./~nobody7/x"


def test_a_file_whose_name_holds_an_equals_sign_is_a_file(home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "lr=1e-6").mkdir()
    (home / "lr=1e-6/c.yaml").write_text("run: {num_steps: 7}\n")
    for written in ("lr=1e-6/c.yaml", f"{home}/lr=1e-6/c.yaml", "~/lr=1e-6/c.yaml"):
        config = read_arguments([written, "run.seed=3"])
        assert (config.run.num_steps, config.run.seed) == (7, 3)


def test_a_config_file_that_is_not_there_is_told_as_one_whatever_its_name_holds(home):
    (home / "c.yaml").write_text("run: {num_steps: 7}\n")
    for missing in ("lr=1e-6/d.yaml", "sweeps/lr=1e-6", "./run.dir=x/c.yaml", "~/a=1.yml"):
        for words in ([missing], ["~/c.yaml", missing]):
            with pytest.raises(ValueError, match=r"^config file .* does not exist; name a YAML"):
                read_arguments(words)
    assert read_arguments(["~/c.yaml", "run.dir=x=1/c.yaml"]).run.dir == "x=1/c.yaml"
    with pytest.raises(ValueError, match=r"^unknown option lr="):
        read_arguments(["~/c.yaml", "lr=1e-6"])


def test_a_word_longer_than_a_file_name_is_an_override(home):
    (home / "c.yaml").write_text("run: {num_steps: 7}\n")
    with pytest.raises(ValueError, match=r"^run\.name='x+' holds 5000 bytes"):
        read_arguments(["~/c.yaml", f"run.name={'x' * 5000}"])
