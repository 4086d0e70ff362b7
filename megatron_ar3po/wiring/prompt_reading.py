"""The prompts of a run, read and checked before its servers start.

transformers imports torch wherever it finds it, for seconds, and a tokenizer needs none. Where this process has no
torch yet, the prompts are read in a process of their own to which there is none: the servers start that much earlier,
and torch is imported beside their own imports. It ends with this one, and with the prompts.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.suite import suite_sets
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.preview import preview_prompts
from megatron_ar3po.data.prompt_table import PromptTable
from megatron_ar3po.data.tokenizer import LateTokenizer, load_tokenizer, stop_token_ids
from megatron_ar3po.model_shape import read_model_shape
from megatron_ar3po.platform.process_guard import die_with_parent
from megatron_ar3po.rewards.prompt_grading import PromptGrading
from megatron_ar3po.types import Prompt
from megatron_ar3po.wiring.prompt_caching import find_cache
from megatron_ar3po.wiring.suite_prompts import ReadSet, read_sets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LIMIT_S = 3600.0  # millions of prompts
_PACKAGE = "megatron_ar3po"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """With what is known of tokens beside."""

    stop_token_ids: tuple[int, ...]
    vocab_size: int
    training: PromptTable
    held_out: Sequence[Prompt]
    sets: list[ReadSet]  # of evaluation.suites
    shown: list[str]  # the first to train on as the policy will read them, each of several lines


def read_prompts(
    config: Config,
    tokenizer: LateTokenizer,
    rendered_at: datetime,
    *,
    run_on_first: Callable[[Callable[[], Any]], Any] = lambda task: task(),
) -> Prompts:
    """Collective with the `run_on_first` of several ranks. `rendered_at` is what a chat template takes for now. Raises
    ValueError for prompts that no run could train on."""
    if "torch" in sys.modules:
        return read_here(config, tokenizer.loaded, rendered_at, run_on_first)
    return _read_apart(config, rendered_at)


def read_here(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    rendered_at: datetime,
    run_on_first: Callable[[Callable[[], Any]], Any],
) -> Prompts:
    vocab_size = read_model_shape(config.model.path).vocab_size
    grading = PromptGrading(config.rewards, run=run_on_first)

    def read(files: Sequence[str]) -> PromptTable:
        cache = find_cache(config, files, rendered_at, vocab_size=vocab_size)
        # Where some ranks find what another node's have to make, no call is collective.
        rules = grading if cache is None else PromptGrading(config.rewards)
        return load_prompts(
            files,
            tokenizer,
            config.data,
            grading=rules,
            rendered_at=rendered_at,
            vocab_size=vocab_size,
            cache=cache,
        )

    stops = stop_token_ids(config.model.path, tokenizer, config.rollout.extra_stop_token_ids)
    training = read(list(config.data.files))
    held_out = read([config.evaluation.path]) if config.evaluation.path else []
    return Prompts(
        stop_token_ids=stops,
        vocab_size=vocab_size,
        training=training,
        held_out=held_out,
        sets=read_sets(suite_sets(config), tokenizer, rendered_at, run_on_first),
        shown=preview_prompts(training, tokenizer),
    )


def _read_apart(config: Config, rendered_at: datetime) -> Prompts:
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import answer_parent; answer_parent()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment_of_reader(os.environ),
    )
    try:
        content, _ = process.communicate(pickle.dumps((config, rendered_at)), timeout=_LIMIT_S)
    finally:  # an interrupt too: it does not outlive the wait for it
        process.kill()
        process.wait()
    if not content:
        raise RuntimeError(f"the process that reads the prompts ended with {process.returncode}.")
    said, found = pickle.loads(content)
    for name, level, message in said:
        logging.getLogger(name).log(level, "%s", message)
    if isinstance(found, Exception):
        raise found
    return found


def _environment_of_reader(inherited: Mapping[str, str]) -> dict[str, str]:
    package_root = str(Path(__file__).resolve().parents[2])
    search_path = dict.fromkeys([package_root, *(entry for entry in sys.path if entry)])
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(search_path),
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # that it finds no torch
    }


class _Said(logging.Handler):
    """The lines of the package, for the process that asked."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.levelno, record.getMessage()))


def answer_parent() -> None:
    """In the process of its own: the request on standard input, the answer on standard output."""
    die_with_parent()
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # of a terminal: the parent has it too, and ends us
    sys.modules["torch"] = None  # type: ignore[assignment]  # as Python spells "there is none"
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    said = _Said()
    logger = logging.getLogger(_PACKAGE)
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    config, rendered_at = pickle.load(sys.stdin.buffer)
    found: Prompts | Exception
    try:
        tokenizer = load_tokenizer(config.model.path)
        found = read_here(config, tokenizer, rendered_at, lambda task: task())
    except Exception as error:  # the parent raises it
        if sys.version_info >= (3, 11):
            error.add_note(traceback.format_exc())
        found = error
    with answer:
        pickle.dump((said.lines, found), answer)
