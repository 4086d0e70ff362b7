"""Rules of `algorithm.advantage=history` and of stages that look at counts, a part of `validate.py`."""

from __future__ import annotations

from megatron_ar3po.config.algorithm import HISTORY_OPTIONS, PRIOR_OPTIONS, AlgorithmConfig
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.rules import require
from megatron_ar3po.config.schema import Config
from megatron_ar3po.user_functions import is_import_path


def check_history(config: Config) -> None:
    """Raises ValueError for the first rule that does not hold."""
    rollout, advantage = config.rollout, config.algorithm.advantage
    require(
        config.algorithm.name != "history" or advantage == "history",
        f"algorithm.name=history is the advantage of that name, but algorithm.advantage={advantage}; leave it unset, "
        "or choose another algorithm.name.",
    )
    require(
        not (rollout.stage_rule == "balance" and rollout.cancel_solved),
        "rollout.stage_rule=balance goes on until a correct and an incorrect response are there, but "
        "rollout.cancel_solved=true cuts off at the first correct one what may be incorrect; set "
        "rollout.cancel_solved=false or another rollout.stage_rule.",
    )
    if advantage == "history":
        _check_what_compares_within_groups(config)


def _check_what_compares_within_groups(config: Config) -> None:
    """What looks at the responses of one group against each other has nothing to look at."""
    algorithm = config.algorithm
    clashes = {
        "algorithm.dynamic_sampling=true": (
            algorithm.dynamic_sampling,
            "keeps groups with both outcomes; set algorithm.dynamic_sampling=false",
        ),
        f"algorithm.downsample_to={algorithm.downsample_to}": (
            bool(algorithm.downsample_to),
            "chooses responses of a group by how their rewards differ; set algorithm.downsample_to=0",
        ),
        "algorithm.kl_in=reward": (
            algorithm.kl_in == "reward" and algorithm.kl_coef > 0,
            "changes rewards, but the history knows right and wrong alone; set algorithm.kl_in=loss",
        ),
    }
    for option, (is_set, why) in clashes.items():
        require(
            not is_set,
            f"{option} {why}, or an algorithm.advantage other than history.",
        )


def history_warnings(config: Config) -> list[str]:
    """Options that have no effect in this setup, one line each."""
    algorithm, rollout = config.algorithm, config.rollout
    lines: list[str] = []
    rule = rollout.stage_rule
    if algorithm.advantage != "history":
        is_read = rule == "history" or is_import_path(rule) or is_import_path(algorithm.advantage)
        lines += [
            f"algorithm.{name}={getattr(algorithm, name)} has no effect with algorithm.advantage={algorithm.advantage}."
            for name in HISTORY_OPTIONS
            if getattr(algorithm, name) != getattr(AlgorithmConfig(), name)
            and not (is_read and name in PRIOR_OPTIONS)
        ]
    if rule in ("balance", "history") and len(rollout.stage_sizes) == 1:
        lines.append(
            f"rollout.stage_rule={rule} has no effect: there is one stage; raise rollout.num_stages."
        )
    if rule != "history" and rollout.history_success_frac != RolloutConfig().history_success_frac:
        lines.append(
            f"rollout.history_success_frac={rollout.history_success_frac} has no effect with rollout.stage_rule={rule}."
        )
    return lines
