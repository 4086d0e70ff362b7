"""Which prompts the steps take: the epoch's order, or a choice by what they have shown."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.data.prompt_visits import PromptVisits
from megatron_ar3po.data.selected_prompts import SelectedPrompts, draws_of
from megatron_ar3po.interfaces import PromptOrder
from megatron_ar3po.rollout.ledger_file import rows_of_run
from megatron_ar3po.rollout.lessons import Learner
from megatron_ar3po.run.state import StartingPoint
from megatron_ar3po.types import Prompt


def build_prompt_order(
    config: Config, source: PromptSource, prompts: Sequence[Prompt], start: StartingPoint
) -> tuple[PromptOrder, list[Learner]]:
    """Leader only. `source` stands where the run takes up. (the order, who learns for it what each step has shown)"""
    if config.data.selection == "epoch":
        return source, []
    visits = PromptVisits(prompts, decay=config.rollout.history_decay)
    visits.replay(rows_of_run(config.run.path / "ledger", up_to=start.last_step))
    order = SelectedPrompts(
        source,
        visits,
        selection=config.data.selection,
        exploration_frac=config.data.exploration_frac,
        seed=config.run.seed,
        num_draws=draws_of(start.state.prompt_cursor),
    )
    return order, [visits]
