"""What can be refused before anything of a run starts: one list in one order, for `ar3po train`, its --dry-run and
`ar3po plan`.

`check_start` looks at the options, at the headers of files and at the code that the options name; `check_data` reads
the prompts as the run will. A run reads them itself, before its servers start.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from megatron_ar3po.algorithm.custom import check_custom_functions
from megatron_ar3po.algorithm.history import PromptHistory
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.suite import check_suites
from megatron_ar3po.config.validate import validate
from megatron_ar3po.data.selected_prompts import check_selection
from megatron_ar3po.data.tokenizer import LateTokenizer
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.hf_folder import check_weight_files
from megatron_ar3po.model_shape import ModelShape, read_model_shape, read_policy_shape
from megatron_ar3po.platform import accelerator
from megatron_ar3po.reuse.choice import check_pick
from megatron_ar3po.rewards.verifier import make_verifier
from megatron_ar3po.rollout.stage_plans import make_stage_rule
from megatron_ar3po.run.facts import read_rendered_at
from megatron_ar3po.servers.arguments import check_pass_through
from megatron_ar3po.user_functions import is_import_path
from megatron_ar3po.wiring.layout_checks import check_placement
from megatron_ar3po.wiring.prompt_reading import read_prompts
from megatron_ar3po.wiring.prompts_and_verifier import make_prompt_source
from megatron_ar3po.wiring.router import check_routing


def check_start(
    config: Config,
    layout: ParallelLayout,
    *,
    shape: ModelShape | None = None,
    has_gpu: bool | None = None,
    ranks_per_node: int | None = None,
) -> None:
    """On any rank, before the ranks know each other. Raises ValueError with one sentence, and changes nothing.
    `shape`: of a model that need not be on this machine, nor the files that the config names. `has_gpu`: of the machine
    that will run it, if that is another one. `ranks_per_node`: without it all ranks are on one."""
    validate(
        config,
        layout,
        shape=shape,
        has_gpu=lambda: accelerator.has_gpu() if has_gpu is None else has_gpu,
    )
    check_placement(
        config,
        layout,
        ranks_per_node=ranks_per_node or layout.world_size,
        has_gpus=accelerator.has_gpu() if has_gpu is None else has_gpu,
        shape=shape or read_model_shape(config.model.path),
    )
    trains, samples = config.debug.mode != "rollout_only", config.debug.mode != "train_only"
    if shape is None and trains:
        _check_weights(config, read_policy_shape(config.model.path))
    if trains:
        check_custom_functions(config.algorithm)
        _check_megatron_options(config, shape)
    if samples:
        check_pick(config.reuse)
        check_selection(config.data)
        make_stage_rule(config.rollout, PromptHistory())  # a user's own is imported now
        check_pass_through(config.servers.sglang)
        check_routing(config)
        check_suites(config)
        if layout.rank == 0:
            _check_verifiers(config)


def check_data(config: Config) -> None:
    """Reads tokenizer, prompts and ground truths as the run will. Raises ValueError as it would."""
    if config.debug.mode == "train_only":
        return
    rendered_at = read_rendered_at(config.run.path) if config.run.resume else datetime.now()
    make_prompt_source(config, read_prompts(config, LateTokenizer(config.model.path), rendered_at))


def _check_weights(config: Config, shape: ModelShape) -> None:
    folder = config.model.megatron_path
    if not folder:
        check_weight_files(Path(config.model.path))
        return
    from megatron_ar3po.actor.megatron_folder import check_folder, pieces_of  # slow to import

    try:
        check_folder(Path(folder), pieces_of(shape))
    except ValueError as error:
        raise ValueError(f"model.megatron_path={folder}: {error}") from error


def _check_megatron_options(config: Config, shape: ModelShape | None) -> None:
    if not config.actor.megatron:
        return
    from megatron_ar3po.actor.megatron_options import check_megatron_options  # slow to import

    check_megatron_options(config.actor.megatron, shape or read_policy_shape(config.model.path))


def _check_verifiers(config: Config) -> None:
    """A user's own is called, in a process that ends with this."""
    looked_at: list[RewardsConfig] = []
    for name, own in config.rewards.of_each_source().items():
        if not is_import_path(own.verifier) or own in looked_at:
            continue
        looked_at.append(own)
        try:
            longest = config.rollout.max_response_tokens
            make_verifier(own, _NoText(), max_response_tokens=longest).close()
        except ValueError as error:
            raise ValueError(
                f"{name}: {error}" if config.rewards.by_source else str(error)
            ) from error


class _NoText:
    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        raise AssertionError("nothing is graded")
