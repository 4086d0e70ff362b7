"""What `ar3po options` says, held against the classes it is read from."""

import doctest
import json
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.config import at_resume, options, ranges, renamed, words
from megatron_ar3po.config.at_resume import read_declarations
from megatron_ar3po.config.declared import dotted_options
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.options import all_sections, as_markdown, field_docstrings, find_options
from megatron_ar3po.config.schema import Config

ROOT = Path(__file__).parents[3]


@dataclass
class Kettle:
    """A section."""

    size_l: float = 1.5
    """Litres that it holds;
    more do not fit on the stove.

    A second paragraph."""

    lid: bool = True
    spout: str = "long"
    """How it pours."""

    def pour(self) -> None:
        """No option."""


def test_a_docstring_is_the_string_right_under_its_field():
    assert field_docstrings(Kettle) == {
        "size_l": "Litres that it holds; more do not fit on the stove.\n\nA second paragraph.",
        "spout": "How it pours.",
    }


def test_every_option_is_there_in_order_and_has_a_docstring_that_is_a_sentence():
    every = [option for section in all_sections() for option in section.options]
    assert [option.name for option in every] == dotted_options()
    assert [o.name for o in every if not o.doc.endswith(".") or len(o.doc) < 8] == []


def test_every_option_says_beside_its_declaration_whether_a_resume_may_change_it():
    """`Free[int]`, `Warn[int]` or `Fixed[int]` (config/at_resume.py). One that says nothing counts as fixed."""
    hints = get_type_hints(Config)
    silent = [
        f"{section.name}.{option}"
        for section in fields(Config)
        for option, declared in read_declarations(hints[section.name]).items()
        if declared is None
    ]
    assert silent == []


def test_what_a_resume_may_change_is_said_of_an_option():
    said = {option.name: option.at_resume for s in all_sections() for option in s.options}
    assert said["run.num_steps"] == said["checkpoint.keep_last"] == "free"
    assert said["actor.learning_rate"] == said["actor.tensor_parallel_size"] == "warn"
    assert said["run.seed"] == said["algorithm.name"] == said["rewards.correct"] == "fixed"


def test_an_options_default_and_its_presets_are_those_of_a_loaded_config():
    for section in all_sections():
        for option in section.options:
            for name in ("ar3po", "grpo", "dapo", "history"):
                config = load_config([], [f"algorithm.name={name}"])
                loaded = getattr(getattr(config, section.name), option.name.split(".")[1])
                stated = option.presets.get(name, option.default)
                if option.name != "algorithm.name":
                    assert loaded == stated, f"{option.name} under {name}"


@pytest.mark.parametrize("module", [at_resume, options, ranges, renamed, words])
def test_the_examples_of_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.failed == 0 and results.attempted >= 1


def test_a_section_is_printed_with_types_defaults_and_presets(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert main(["options", "rollout"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("ROLLOUT  Adaptive rollout")
    assert (
        "  rollout.num_stages: int, 1 to 1024 = 2\n      by algorithm.name: ar3po 2, grpo 1, dapo 1, history 1\n"
        "      fixed at a resume\n" in printed
    )
    assert "  rollout.stage_scheduling: continuous | barrier = continuous\n" in printed
    assert "  rollout.stage_plan: list of int, 1 to 65536 = []\n" in printed
    assert "servers." not in printed
    assert max(map(len, printed.splitlines())) <= 90


def test_one_option_is_printed_alone_and_without_a_name_all_are(capsys):
    main(["options", "run.seed"])
    alone = capsys.readouterr().out
    assert "run.seed: int, at least 0 and below 2^63 = 0" in alone and "run.name" not in alone
    main(["options"])
    everything = capsys.readouterr().out
    assert all(f"  {name}: " in everything for name in dotted_options())


def test_a_script_gets_the_values_themselves(capsys):
    assert main(["options", "algorithm.dynamic_sampling", "--json"]) == 0
    (option,) = json.loads(capsys.readouterr().out)
    assert option["doc"].startswith("DAPO: draw new prompts")
    del option["doc"]
    assert option == {
        "name": "algorithm.dynamic_sampling",
        "type": "bool",
        "range": "",
        "default": False,
        "presets": {"ar3po": False, "grpo": False, "dapo": True, "history": False},
        "at_resume": "fixed",
    }


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("rollot", "rollot is no section and no option; the nearest one is rollout."),
        ("run.steps", "the nearest one is run.num_steps."),
        ("rollout.server_url", "the nearest one is servers.urls."),
        ("rollout.server_urls", "rollout.server_urls is called servers.urls now; ask for that."),
    ],
)
def test_an_unknown_name_fails_with_the_nearest_one(asked, sentence):
    with pytest.raises(ValueError) as error:
        find_options(asked)
    assert str(error.value).endswith(sentence)


def test_the_page_of_options_is_what_the_command_writes():
    """Written by `ar3po options --markdown > docs/options.md`."""
    assert (ROOT / "docs" / "options.md").read_text() == as_markdown()


def test_to_ask_for_options_loads_no_library_that_takes_seconds():
    check = (
        "import sys; from megatron_ar3po.cli import main; main(['options', 'run']); "
        "print(sorted({'torch', 'transformers', 'numpy', 'sympy'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.splitlines()[-1] == "[]"
