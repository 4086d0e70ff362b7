"""What is compared: variants (a config and some words each), seeds, and the limits every run has alike.

With a budget of responses, "alike" means at equal responses, whatever a variant's steps cost:
- every run is evaluated where its responses pass a multiple of responses / evaluations, so that none has more chances
  to be seen above the target, or a finer curve;
- the learning rate is constant and without a warm-up: a schedule counts updates, and those come at unlike costs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.presets import PRESETS
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.words import read_yaml_file

Number = TypeVar("Number", int, float)
_KEYS = {
    *("config", "seeds", "responses", "evaluations", "target", "timeout_s", "common", "variants"),
}
_EVALUATIONS = 5
_OURS = ("evaluation.every_steps", "evaluation.every_responses")  # with a budget
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_AR3PO = PRESETS["ar3po"]["rollout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    name: str
    words: tuple[str, ...]  # section.option=value, after the experiment's common ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    config: Path
    variants: tuple[Variant, ...]  # the first one is what the others are compared with
    seeds: tuple[int, ...]
    common: tuple[str, ...] = ()
    responses: int = 0  # a run ends with its first evaluation at or beyond them; 0: run.num_steps
    evaluations: int = _EVALUATIONS  # with `responses`: at so many equal parts of them
    target: float = 0.0  # pass@1 whose first crossing is reported; 0: none
    timeout_s: float = 3600.0  # of one run

    def words_of(self, variant: Variant, seed: int) -> list[str]:
        """Everything but run.dir."""
        words = [*self.common, *variant.words, f"run.seed={seed}", "run.progress=plain"]
        return [*words, *self._words_of_budget(words)]

    def config_of(self, variant: Variant, seed: int) -> Config:
        return load_config([self.config], self.words_of(variant, seed))

    def _words_of_budget(self, words: Sequence[str]) -> list[str]:
        """The budget ends a run, never the number of steps: there are enough for the cheapest ones."""
        if not self.responses:
            return []
        config = load_config([self.config], words)
        least = config.rollout.prompts_per_step
        if not config.rollout.cancel_solved:  # which may leave all but one of a stage unsent
            least *= config.rollout.stage_sizes[0]
        return [
            f"run.num_steps={math.ceil(self.responses / least)}",
            "evaluation.every_steps=0",
            f"evaluation.every_responses={math.ceil(self.responses / self.evaluations)}",
        ]

    def check(self) -> None:
        """Every variant's config is read before the first run starts; a broken one is named."""
        for variant in self.variants:
            try:
                config = load_config([self.config], self.words_of(variant, self.seeds[0]))
            except ValueError as error:
                raise ValueError(f"variant {variant.name}: {error}") from None
            if not config.evaluation.path:
                raise ValueError(
                    f"variant {variant.name}: evaluation.path is empty, so there is no accuracy to compare; name a "
                    "file of held-out prompts."
                )
            self._check_fairness(variant, config)

    def _check_fairness(self, variant: Variant, config: Config) -> None:
        """At equal responses every run must have been treated alike."""
        actor = config.actor
        if actor.lr_decay != "constant":
            raise ValueError(
                f"variant {variant.name}: actor.lr_decay={actor.lr_decay} counts updates, which cost unlike numbers of "
                "responses, so that the variants would be compared at unlike learning rates; set "
                "actor.lr_decay=constant."
            )
        if not self.responses:
            return
        if actor.lr_warmup_steps:
            raise ValueError(
                f"variant {variant.name}: actor.lr_warmup_steps={actor.lr_warmup_steps} counts updates, which cost "
                f"unlike numbers of responses, and the comparison is at equal ones (responses={self.responses}); set "
                "actor.lr_warmup_steps=0."
            )
        for word in (*self.common, *variant.words):
            if word.partition("=")[0] in _OURS:
                raise ValueError(
                    f"variant {variant.name}: {word} with responses={self.responses}; the runs are evaluated at "
                    f"evaluations={self.evaluations} equal parts of the budget, all alike. Leave it out."
                )


def known_variant(name: str) -> tuple[str, ...] | None:
    """The words of a variant that has a name of its own; None for another.

    >>> known_variant("grpo_k")
    ('algorithm.name=grpo', 'rollout.responses_per_stage=4')
    >>> known_variant("stages_3")
    ('algorithm.name=ar3po', 'rollout.num_stages=3')
    """
    stages, k = _AR3PO["num_stages"], _AR3PO["responses_per_stage"]
    if name in PRESETS:
        return (f"algorithm.name={name}",)
    if name == "grpo_k":
        return ("algorithm.name=grpo", f"rollout.responses_per_stage={k}")
    if name == "adaptive_only":
        return ("algorithm.name=ar3po", "reuse.enabled=false")
    if name == "reuse_only":
        words = ("rollout.num_stages=1", f"rollout.responses_per_stage={stages * k}")
        return ("algorithm.name=ar3po", *words)
    if name in ("detach", "recompute", "stored"):
        return ("algorithm.name=ar3po", f"reuse.option={name}")
    if name == "history_stages":
        words = (f"rollout.num_stages={stages}", f"rollout.responses_per_stage={k}")
        return ("algorithm.name=history", *words)
    if match := re.fullmatch(r"history_(\d+)", name):
        return ("algorithm.name=history", f"rollout.responses_per_stage={match[1]}")
    if match := re.fullmatch(r"(stages|k)_(\d+)", name):
        option = "num_stages" if match[1] == "stages" else "responses_per_stage"
        return ("algorithm.name=ar3po", f"rollout.{option}={match[2]}")
    return None


def variant_named(name: str, words: Sequence[str] = ()) -> Variant:
    """A known name with further words behind its own, or a new name with words that say all."""
    known = known_variant(name)
    if known is None and not words:
        raise ValueError(
            f"algorithm {name!r} is not known; use ar3po, grpo, grpo_k, dapo, history, history_N, history_stages, "
            "adaptive_only, reuse_only, detach, recompute, stored, stages_N, k_N, or an experiment file in which it "
            "has words of its own."
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"variant {name!r} names a folder; use letters, digits, '_', '-' and '.' only."
        )
    return Variant(name=name, words=(*(known or ()), *words))


def from_command_line(
    config: Path, algorithms: str, num_seeds: int, common: Sequence[str], **limits: Any
) -> Experiment:
    names = [name.strip() for name in algorithms.split(",") if name.strip()]
    return _require_runnable(
        Experiment(
            config=config,
            variants=tuple(variant_named(name) for name in names),
            seeds=tuple(range(num_seeds)),
            common=tuple(common),
            **limits,
        )
    )


def is_experiment_file(path: Path) -> bool:
    """A run's config has sections and no `variants`."""
    return "variants" in read_yaml_file(path)


def from_file(path: Path, common: Sequence[str] = ()) -> Experiment:
    """`common` comes after the file's own."""
    read = read_yaml_file(path)
    unknown = sorted(set(read) - _KEYS)
    if unknown:
        raise ValueError(
            f"{path}: unknown key {unknown[0]!r}; an experiment file has {', '.join(sorted(_KEYS))}."
        )
    variants = read["variants"]
    if not isinstance(variants, dict):
        raise ValueError(f"{path}: variants={variants!r} must map a name to a list of words.")
    stated = read.get("seeds", 5)
    seeds = stated if isinstance(stated, list) else range(_number(path, read, "seeds", 5))
    return _require_runnable(
        Experiment(
            config=path.parent / str(read.get("config", "config.yaml")),
            variants=tuple(
                variant_named(str(name), _words(path, str(name), words))
                for name, words in cast("dict[Any, Any]", variants).items()
            ),
            seeds=tuple(seeds),
            common=(*_words(path, "common", read.get("common")), *common),
            responses=_number(path, read, "responses", 0),
            evaluations=_number(path, read, "evaluations", _EVALUATIONS),
            target=_number(path, read, "target", 0.0),
            timeout_s=_number(path, read, "timeout_s", 3600.0),
        )
    )


def _number(path: Path, read: Mapping[str, Any], name: str, default: Number) -> Number:
    """Of the type of its default."""
    kind, value = type(default), read.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (kind is int and value != value // 1):  # 1e6 is whole, NaN is not
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{path}: {name}={value!r} must be {wanted}.")
    return kind(value)


def _words(path: Path, name: str, words: Any) -> tuple[str, ...]:
    given: list[Any] = words or []
    if not isinstance(given, list) or not all(isinstance(w, str) and "=" in w for w in given):
        raise ValueError(f"{path}: {name}={words!r} must be a list of section.option=value words.")
    return tuple(given)


def _require_runnable(experiment: Experiment) -> Experiment:
    names = [variant.name for variant in experiment.variants]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"the variants {names} must be one or more, each named once.")
    if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in experiment.seeds):
        raise ValueError(f"seeds={list(experiment.seeds)} must be whole numbers.")
    if not experiment.seeds or len(set(experiment.seeds)) < len(experiment.seeds):
        raise ValueError(f"seeds={list(experiment.seeds)} must be one or more, each once.")
    if experiment.responses < 0 or experiment.evaluations < 1:
        raise ValueError(
            f"responses={experiment.responses} must not be negative, evaluations={experiment.evaluations} at least 1."
        )
    if not 0 < experiment.timeout_s < math.inf or not 0 <= experiment.target <= 1:  # NaN is neither
        raise ValueError(
            f"timeout_s={experiment.timeout_s} must be seconds above 0, and target={experiment.target} a pass@1 of 0 "
            "to 1."
        )
    experiment.check()
    return experiment
