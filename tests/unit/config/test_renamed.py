import pytest
import yaml

from megatron_ar3po.config.declared import dotted_options
from megatron_ar3po.config.load import config_from_dict, load_config
from megatron_ar3po.config.renamed import RENAMED

# One value of each old option, as it stands in a file and on the command line.
VALUES = {
    "rollout.deterministic": "true",
    "rollout.max_concurrent_requests": "256",
    "rollout.routing": "global",
    "rollout.servers_per_replica": "2",
    "rollout.server_urls": "['http://a:1']",
    "rollout.server_start_timeout_s": "60.0",
    "rollout.request_timeout_s": "60.0",
    "rollout.hang_timeout_s": "60.0",
    "rollout.max_retries": "1",
    "rollout.max_server_restarts": "1",
    "rollout.port": "30000",
    "rollout.max_total_tokens": "8192",
    "rollout.sglang": "{mem_fraction_static: 0.7}",
    "reuse.logprob_band": "2.5",
}


def test_no_old_name_is_an_option_and_every_new_one_is():
    options = set(dotted_options())
    assert VALUES.keys() == RENAMED.keys()
    assert options.isdisjoint(RENAMED)
    assert options.issuperset(RENAMED.values())


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_fails_with_its_new_one_from_a_file_and_from_the_command_line(old, tmp_path):
    section, option = old.split(".")
    nested = tmp_path / "nested.yaml"
    nested.write_text(f"{section}:\n  {option}: {VALUES[old]}\n")
    flat = tmp_path / "flat.yaml"
    flat.write_text(f"{old}: {VALUES[old]}\n")
    sentences = set()
    for files, words in (([nested], []), ([flat], []), ([], [f"{old}={VALUES[old]}"])):
        with pytest.raises(ValueError) as error:
            load_config(files, words)
        sentences.add(str(error.value))
    (sentence,) = sentences
    assert sentence.startswith(f"{old} is called {RENAMED[old]} now; write {RENAMED[old]}")


@pytest.mark.parametrize("old", RENAMED)
def test_what_the_refusal_says_to_write_is_taken(old):
    with pytest.raises(ValueError) as error:
        load_config([], [f"{old}={VALUES[old]}"])
    word = str(error.value).partition("; write ")[2].removesuffix(".")
    section, option = RENAMED[old].split(".")
    taken = getattr(getattr(load_config([], [word]), section), option)
    assert taken == yaml.safe_load(VALUES[old])


def test_all_old_names_of_a_file_are_told_at_once():
    old = {"rollout": {"port": 30000, "deterministic": False}, "reuse": {"logprob_band": 2}}
    with pytest.raises(ValueError) as error:
        config_from_dict(old)
    assert str(error.value).splitlines() == [
        "rollout.port is called servers.port now; write servers.port=30000.",
        "rollout.deterministic is called run.deterministic now; write run.deterministic=false.",
        "reuse.logprob_band is called reuse.max_logprob_drift now; write reuse.max_logprob_drift=2.",
    ]


def test_an_option_passed_through_to_sglang_keeps_its_own_name():
    words = ["rollout.sglang.mem_fraction_static=0.7", "rollout.sglang.log_level=error"]
    with pytest.raises(ValueError, match=r"is called servers\.sglang now") as error:
        load_config([], words)
    assert str(error.value).endswith(
        "write servers.sglang.mem_fraction_static=0.7 servers.sglang.log_level=error."
    )


@pytest.mark.parametrize(
    ("misspelt", "new"),
    [("rollout.server_url", "servers.urls"), ("reuse.logprob_bands", "reuse.max_logprob_drift")],
)
def test_a_misspelt_old_name_is_led_to_the_new_one(misspelt, new):
    with pytest.raises(ValueError, match=rf"the nearest known one is {new}\."):
        load_config([], [f"{misspelt}=1"])


def test_a_section_whose_name_is_a_number_is_an_unknown_option():
    with pytest.raises(ValueError, match=r"unknown option 1=\{'port': 30000\}"):
        config_from_dict({1: {"port": 30000}})  # type: ignore[dict-item]
