"""The facts of a run: what the files and the code that its options name hold, and what it runs on. Found cheaply,
before servers and model; `run/resume_comparison.py` holds those of a resume against those of its run.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from megatron_ar3po import __version__
from megatron_ar3po.config.at_resume import AtResume
from megatron_ar3po.config.paths import expand_home
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.suite import suite_sets
from megatron_ar3po.data.prompt_rows import digest_prompts
from megatron_ar3po.data.prompt_templates import is_file_of_template, load_template
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.file_digests import digest_file
from megatron_ar3po.platform.source_commit import read_commit
from megatron_ar3po.rewards.verifier import verifier_version
from megatron_ar3po.run.facts import Fact
from megatron_ar3po.run.resume_comparison import Comparison, compare_with_run
from megatron_ar3po.user_functions import is_import_path
from megatron_ar3po.wiring.model_identity import digest_weights, identify_model
from megatron_ar3po.wiring.prompt_caching import remember

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "megatron-core", "sglang", "transformers", "tokenizers")


def compare_start(config: Config, ranks: Ranks) -> Comparison:
    """Collective, the work of rank 0: what this start is to the run in its folder, with a line for every change of
    which a resume warns. Raises ValueError with those that it may not make. Changes nothing."""
    comparison = ranks.run_on_first(
        lambda: compare_with_run(config, find_facts(config, ranks.layout), datetime.now())
    )
    if comparison.note:
        logger.warning("%s", comparison.note)
    for change in comparison.changes:
        logger.warning("changed at this resume: %s", change.describe())
    return comparison


def allows_other_prompts(config: Config) -> bool:
    """Whether `run.allow_changed` names what decides the prompts or their order."""
    return any(
        name.startswith(("data.", "rewards.")) or name in ("model.path", "run.seed")
        for name in config.run.allow_changed
    )


def find_facts(config: Config, layout: ParallelLayout) -> list[Fact]:
    """Raises ValueError for data that cannot be read."""
    return [
        *facts_of_data(config),
        *_facts_of_suites(config),
        *_facts_of_models(config),
        *_facts_of_verifiers(config.rewards),
        *_facts_of_users_code(config),
        *_facts_of_schedule(config),
        Fact("layout", "replicas", str(layout.data_parallel_size), AtResume.WARN),
        *_facts_of_packages(),
    ]


def facts_of_data(config: Config) -> Iterator[Fact]:
    graded_by = config.rewards.row_fields
    if is_file_of_template(config.data.template):
        load_template(config.data.template)  # says it in a sentence where it cannot be read
        template = digest_file(Path(expand_home(config.data.template))).xxh3
        yield Fact("data.template", "text", template, AtResume.FIXED)

    def digest(path: str, **how: Any) -> tuple[int, str]:
        fields = config.data.prompt_field, config.data.answer_field, graded_by, how
        return remember(
            config,
            path,
            fields,
            lambda: digest_prompts(path, config.data, graded_by=graded_by, **how),
        )

    if weights := config.data.mixture.values():
        shares = " ".join(str(weight / sum(weights)) for weight in weights)
        yield Fact("data.mixture", "shares", shares, AtResume.FIXED)
    for number, path in enumerate(config.data.files, start=1):
        found = digest(path, is_ordered=not config.data.shuffle)
        is_mixed = bool(config.data.mixture)
        option = "data.mixture" if is_mixed else "data.path"
        what = f"prompts of file {number}" if is_mixed else "prompts"
        yield Fact(option, what, _describe(*found), AtResume.FIXED)
    if config.evaluation.path:
        held_out = digest(config.evaluation.path, first=config.evaluation.max_prompts)
        yield Fact("evaluation.path", "prompts", _describe(*held_out), AtResume.FIXED)


def _facts_of_suites(config: Config) -> Iterator[Fact]:
    """A set may change, or come and go: nothing of the training hangs on it."""
    for found in suite_sets(config):
        own = found.config
        held_out = digest_prompts(
            own.data.path,
            own.data,
            graded_by=own.rewards.row_fields,
            first=own.evaluation.max_prompts,
        )
        what = f"prompts of {found.name}"
        yield Fact("evaluation.suites", what, _describe(*held_out), AtResume.WARN)


def _describe(num_prompts: int, digest: str) -> str:
    return f"{num_prompts} with checksum {digest}"


def _facts_of_models(config: Config) -> Iterator[Fact]:
    for what, digest in identify_model(Path(config.model.path)).items():
        yield Fact("model.path", what, digest, AtResume.FIXED)
    if config.model.megatron_path:
        files = (path for path in Path(config.model.megatron_path).iterdir() if path.is_file())
        yield Fact("model.megatron_path", "weights", digest_weights(files), AtResume.FIXED)


def _facts_of_verifiers(rewards: RewardsConfig) -> Iterator[Fact]:
    if not rewards.by_source:
        yield Fact("rewards.verifier", "version", verifier_version(rewards), AtResume.FIXED)
    for source in rewards.by_source:
        own = rewards.for_source(source)
        assert own is not None, "by_source names it"
        what = f"version for {source!r}"
        yield Fact("rewards.by_source", what, verifier_version(own), AtResume.FIXED)


def _facts_of_users_code(config: Config) -> Iterator[Fact]:
    """The file a function stands in. It may hold more than the function, so that a change is no more than a hint."""
    named = {
        "algorithm.advantage": config.algorithm.advantage,
        "algorithm.policy_loss": config.algorithm.policy_loss,
        "data.selection": config.data.selection,
        "reuse.pick": config.reuse.pick,
        "rewards.verifier": config.rewards.verifier,
        "rollout.stage_rule": config.rollout.stage_rule,
    }
    for source in config.rewards.by_source:
        own = config.rewards.for_source(source)
        named[f"rewards.by_source.{source}"] = own.verifier if own else ""
    for option, path in named.items():
        file = _file_of_module(path.partition(":")[0]) if is_import_path(path) else None
        if file is not None:
            yield Fact(option, "code", digest_file(file).xxh3, AtResume.WARN)


def _file_of_module(module: str) -> Path | None:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # whoever calls the function says so
        return None
    file = Path(found.origin) if found and found.origin else None
    return file if file is not None and file.is_file() else None


def _facts_of_schedule(config: Config) -> Iterator[Fact]:
    if config.actor.lr_decay != "constant":
        num_updates = config.run.num_steps * config.algorithm.updates_per_step
        yield Fact("actor.lr_decay", "optimizer steps", str(num_updates), AtResume.WARN)


def _facts_of_packages() -> Iterator[Fact]:
    yield Fact("packages", "megatron_ar3po", __version__, AtResume.WARN)
    if commit := read_commit():  # a model card names it; what runs is the version's to say
        yield Fact("packages", "commit", commit, AtResume.FREE)
    for package in _PACKAGES:
        try:
            yield Fact("packages", package, version(package), AtResume.WARN)
        except PackageNotFoundError:
            continue
