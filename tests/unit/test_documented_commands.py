"""Every command that a README or a page of docs/ shows: the program knows its options, its files are there, its
key=value words are options of the config, as is every option that the text names. Nothing is started here; the commands
are run by tests/slurm/test_readme_commands.py (clusters), tests/e2e, tests/chaos (training) and each tool's own tests.
Not checked: what needs the network (`hf`, `pip`), `docker`, for want of an engine, and `nemo`, which
tests/unit/launch/test_nemo_commands.py and tests/slurm/test_nemo_run_on_slurm.py run.
"""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from megatron_ar3po.cli import make_parser
from megatron_ar3po.config.command_line import parse_with_late_words
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.train import add_train_arguments

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("", "docs/", "examples/*/", "benchmarks/")
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}*.md"))
NOT_OURS = {"hf", "pip", "tail", "kill", "scancel", "nvidia-smi", "py-spy", "nemo"}
OURS = {"ar3po", "make", "python", "torchrun", "sbatch", "docker"}
IS_PLACEHOLDER = re.compile(r"[A-Z_]+(/.*)?")  # CONFIG, RUN, RUN/checkpoints/...


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command; `.venv/bin/`, a prompt and leading VAR=value words are dropped."""
    text = page.read_text().replace("\\\n", " ")
    fenced = re.findall(r"^ *```(bash|console|)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    in_bash = {
        line.strip() for language, block in fenced if language for line in block.splitlines()
    }
    plain = [
        line.strip() for language, block in fenced if not language for line in block.splitlines()
    ]
    outside = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = [line.strip() for line in outside.splitlines() if line.startswith("    ")]
    found = []
    for line in [*in_bash, *plain, *indented]:
        for part in line.removeprefix("$ ").split(" && "):
            words = words_of(part)
            is_command = bool(words) and (words[0] in OURS | NOT_OURS or words[0].endswith(".sh"))
            assert is_command or line not in in_bash, f"{page}: what is this? {line}"
            if is_command:
                found.append(words)
    return found


def words_of(line: str) -> list[str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a sentence with an apostrophe
        return []
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else []


SHOWN = [(page, words) for page in PAGES for words in commands_of(page)]


def test_the_pages_show_commands_of_every_kind():
    assert len(SHOWN) >= 70
    assert {words[0] for _, words in SHOWN} >= OURS
    verbs = {words[1] for _, words in SHOWN if words[0] == "ar3po"}
    assert verbs >= {"train", "plan", "launch", "report", "status", "evaluate", "reuse", "grade"}


@pytest.mark.parametrize(
    ("page", "words"), SHOWN, ids=[f"{p.relative_to(ROOT)}: {' '.join(w)}" for p, w in SHOWN]
)
def test_a_command_that_a_page_shows_can_be_given(page, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, rest = words[0], words[1:]
    if program.endswith(".sh"):
        assert Path(program).is_file()
    elif program == "ar3po":
        arguments = parse_with_late_words(make_parser(), rest)
        if rest[0] in ("train", "plan", "launch", "evaluate"):
            check_arguments(arguments)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", Path("Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program in ("python", "torchrun"):
        check_python(rest)
    elif program == "sbatch":
        scripts = [word for word in rest if word.endswith(".sh")]
        assert all(Path(script).is_file() for script in scripts)
        assert scripts or any(word.startswith("-") for word in rest)
    elif program == "docker" and "--target" in rest:
        stage = rest[rest.index("--target") + 1]
        assert f" AS {stage}\n" in Path("Dockerfile").read_text()


def test_every_option_that_a_page_names_is_one():
    sections = get_type_hints(Config)
    options = {f"{s}.{f.name}" for s, section in sections.items() for f in fields(section)}
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]  # it names old ones
    spans = [
        span for page in pages for span in re.findall(r"`([a-z_]+\.\w+)[^`]*`", page.read_text())
    ]
    named = {span for span in spans if span.split(".")[0] in sections}
    assert len(named) >= 60
    assert named - options == {"run.executor", "run.plugins"}  # of NeMo-Run's command line


def check_arguments(arguments: argparse.Namespace) -> None:
    """The words of one config: YAML files, then options."""
    config = getattr(arguments, "config", [])
    words = [
        *([config] if isinstance(config, str) else config),
        *getattr(arguments, "overrides", []),
    ]
    files = [w for w in words if "=" not in w and not IS_PLACEHOLDER.fullmatch(w)]
    if files or any("=" in w for w in words):
        load_config(files, [w for w in words if "=" in w and ":" not in w])


def check_python(words: list[str]) -> None:
    if "-m" in words:
        module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
        file = Path(*module.split(".")).with_suffix(".py")
        if module == "megatron_ar3po.train":
            parser = argparse.ArgumentParser()
            add_train_arguments(parser)
            check_arguments(parse_with_late_words(parser, rest))
            return
    else:
        file, rest = Path(words[0]), words[1:]
    assert file.is_file(), f"no {file}"
    options = {word.partition("=")[0] for word in rest if word.startswith("--")}
    missing = [option for option in options if f'"{option}"' not in file.read_text()]
    assert missing == [], f"{file} knows no {missing}"
