"""Words of our own that misled readers who know the field, and the field's word for each: nobody uses the old ones, in
code, in pages or in what the commands print of themselves.

What is legitimate in another sense is not meant: a band of pass rates, the final answer of a problem, the way there and
back. Names that stand in files on disk stay what they are: the column `lottery` of a shard, the key `meetings` of a
rank's status.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from megatron_ar3po.cli import make_parser

ROOT = Path(__file__).resolve().parents[2]
CODE = ("megatron_ar3po", "tools", "benchmarks", "tests")
PAGES = ("docs", "examples", "launch_slurm")
RENAMES = {"renamed.py", "test_renamed.py", "CHANGELOG.md"}  # they tell old names on purpose
SERVER_CALLS = ("megatron_ar3po/servers/", "megatron_ar3po/weight_sync/")


class Word(NamedTuple):
    pattern: str
    say: str
    misleading: tuple[str, ...]  # examples that the pattern finds
    fine: tuple[str, ...] = ()  # and some that it passes over
    folders: tuple[str, ...] = ("",)  # where the word is meant


# Whole identifiers, wherever Python code has one.
NAMES = (
    Word(r"Frozen(Actor|Policy)|frozen_(actor|policy)", "no-op actor", ("FrozenActor",)),
    Word(r"in_place", "swapped_in, or scatter", ("in_place",), ("inplace", "_put_in_place")),
    Word(
        r"_?(generation|scoring)_question|_?last_words",
        "request, log_tail",
        ("last_words", "generation_question"),
    ),
    Word(
        r"[Qq]uestions?|Answer|_?told",
        "request, response, get_field",
        ("Question", "told"),
        ("answer",),
        SERVER_CALLS,
    ),
    Word(r"_?places?|_?standings?", "index, position or drift result", ("place", "standing")),
    Word(r"_?lottery(_\w+)?|_lot|by_lot", "hash rank", ("lottery_number", "_lot"), ("lot_size",)),
    Word(r"(logprob|within|in|out_of)_band", "max_logprob_drift", ("logprob_band",), ("band",)),
    Word(r"_?meetings?|_?who_is_missing", "collective, stragglers", ("_meeting", "who_is_missing")),
    Word(r"\w*weightless\w*|_?fillers?", "dummy row, padding row", ("_weightless_row", "filler")),
    Word(r"_?stamps?", "set_weight_version", ("stamp",), ("timestamp",)),
    Word(r"is_away|is_back", "is_offloaded", ("is_away",), ("back", "there_and_back")),
    Word(
        r"Language|load_language",
        "tokenizer, prompts, verifier",
        ("Language",),
        ("LanguageModule", "language"),
    ),
    Word(r"[Tt]odays_?[Gg]rader", "regrader", ("TodaysGrader", "todays_grader")),
    Word(r"Attached\w*|attached_server", "external server", ("AttachedServer",), ("attached",)),
)

# Anywhere in a line: comments, docstrings, messages, pages, help texts.
TEXTS = (
    Word(r"\bfrozen actor", "no-op actor", ("a frozen actor",), ("the reference is frozen",)),
    Word(
        r"\bcut by (its |their )?columns|\bcut == \"columns\"", "row-parallel", ("cut by columns",)
    ),
    Word(r"\blast words\b", "the end of the log", ("its last words say",), ("the last word",)),
    Word(r"\blottery (number|draw)|\bby lot\b", "hash rank", ("drawn by lot",), ("lottery_seed",)),
    Word(
        r"\blogprob_band\b|\b(in|out of|within|beyond|left|leaves) the band\b",
        "max_logprob_drift, drifted too far",
        ("out of the band",),
        ("each band of pass rates",),
    ),
    Word(
        r"(?<![\"'`])\bmeetings?\b(?![\"'`])|\bcould not meet\b",
        "collective, stragglers",
        ("at meeting 7", "rank 0 could not meet all ranks"),
        ("`meetings` in the file", "rooms meet"),
    ),
    Word(
        r"\bweightless\b|\bfillers?\b", "dummy row, padding row", ("a weightless row", "a filler")
    ),
    Word(r"\bstamp(s|ed|ing)?\b", "set the weight version", ("it is stamped",), ("a timestamp",)),
    Word(r"\b[Aa]ttached servers?\b", "external server", ("an attached server",)),
    Word(r"\btoday'?s grader", "regrader", ("today's grader",), ("today's verifier",)),
)

IRREGULAR = re.compile(
    "begun|bound|broken|brought|built|caught|chosen|done|drawn|found|frozen|given|gone|held|hidden|kept|known|left|lent|"
    "lost|made|met|seen|sent|shown|sold|sorted|spoken|taken|taught|thought|told|torn|won|worn|written"
)
VERBS = {"embed", "feed", "need", "proceed", "seed", "speed"}
NO_VERB_WANTED = ("property", "fixture", "composite")  # what they decorate is named as a thing


def name(word: Word) -> str:
    return word.misleading[0]


@cache
def code() -> dict[str, str]:
    """Of every Python file but this one."""
    found = texts_below(CODE, (".py",))
    del found[Path(__file__).relative_to(ROOT).as_posix()]
    return found


@cache
def texts() -> dict[str, str]:
    """Code, pages, and what the commands print of themselves."""
    at_the_root = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("*.md")}
    pages = texts_below(PAGES, (".md", ".yaml", ".sh"))
    shown = {f"{parser.prog} --help": text for parser, text in helps()}
    return {**code(), **at_the_root, **pages, **shown}


def texts_below(folders: Sequence[str], suffixes: Sequence[str]) -> dict[str, str]:
    paths = (path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*"))
    return {
        path.as_posix(): (ROOT / path).read_text(encoding="utf-8")
        for path in sorted(paths)
        if path.suffix in suffixes and not any(part.startswith(".") for part in path.parts)
    }


def helps() -> list[tuple[argparse.ArgumentParser, str]]:
    found, waiting = [], [make_parser()]
    while waiting:
        parser = waiting.pop()
        found.append((parser, " ".join(parser.format_help().split())))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
    return found


def identifiers_of(source: str) -> list[tuple[int, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(t.start[0], t.string) for t in tokens if t.type == tokenize.NAME]


@cache
def identifiers() -> list[tuple[str, int, str]]:
    return [
        (path, line, text)
        for path, source in code().items()
        for line, text in identifiers_of(source)
    ]


def is_meant(path: str, word: Word) -> bool:
    return path.startswith(word.folders)


def names_a_deed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A verb, and no bare participle that says what comes out instead of what is done."""
    if any(what in ast.unparse(d) for d in function.decorator_list for what in NO_VERB_WANTED):
        return True
    bare = function.name.strip("_")
    is_participle = bool(IRREGULAR.fullmatch(bare)) or (
        bare.endswith("ed") and "_" not in bare and bare not in VERBS
    )
    return not (is_participle or bare.startswith("checked_") or bare in ("away", "back"))


@pytest.mark.parametrize("word", [*NAMES, *TEXTS], ids=name)
def test_each_pattern_finds_its_word_and_no_other(word: Word) -> None:
    matches = (
        re.compile(word.pattern).fullmatch if word in NAMES else re.compile(word.pattern).search
    )
    assert all(matches(text) for text in word.misleading)
    assert not any(matches(text) for text in word.fine)


@pytest.mark.parametrize("word", NAMES, ids=name)
def test_no_name_misleads(word: Word) -> None:
    pattern = re.compile(word.pattern)
    found = [
        f"{path}:{line}: {text}"
        for path, line, text in identifiers()
        if is_meant(path, word) and pattern.fullmatch(text)
    ]
    assert found == [], f"say: {word.say}"


@pytest.mark.parametrize("word", TEXTS, ids=name)
def test_no_text_misleads(word: Word) -> None:
    pattern = re.compile(word.pattern)
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in texts().items()
        if Path(path).name not in RENAMES
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == [], f"say: {word.say}"


def test_every_command_has_shown_its_help() -> None:
    shown = {parser.prog for parser, _ in helps()}
    assert {"ar3po", "ar3po train", "ar3po reuse stats", "ar3po status"} <= shown


@pytest.mark.parametrize(
    ("source", "is_a_deed"),
    [
        ("def explained(): ...", False),
        ("async def _sent(): ...", False),
        ("def checked_rewards(): ...", False),
        ("def back(): ...", False),
        ("def explain_error(): ...", True),
        ("def seed(): ...", True),
        ("def swapped_in(): ...", True),
        ("@property\ndef graded(self): ...", True),
        ("@pytest.fixture(scope='module')\ndef trained(): ...", True),
    ],
)
def test_participles_are_told_from_verbs(source: str, is_a_deed: bool) -> None:
    [function] = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    assert names_a_deed(function) == is_a_deed


def test_functions_are_named_by_verbs_and_not_by_bare_participles() -> None:
    found = [
        f"{path}:{node.lineno}: {node.name}"
        for path, source in code().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not names_a_deed(node)
    ]
    assert found == []
