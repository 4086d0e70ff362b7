"""The report of one run as a page: its five sentences, and one section after the other. A section is a function of the
run that returns None where the run has nothing for it; what is to be on the page as well is added to `SECTIONS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from megatron_ar3po.observability.run_summary import RunSummary, summary_rows
from megatron_ar3po.reporting.cost_section import cost_section
from megatron_ar3po.reporting.findings import find_all
from megatron_ar3po.reporting.learning_sections import (
    accuracy_section,
    length_section,
    mismatch_section,
    update_section,
)
from megatron_ar3po.reporting.page import Page, Section, table
from megatron_ar3po.reporting.prompt_sections import (
    history_section,
    prompt_histories,
    sample_section,
)
from megatron_ar3po.reporting.run_data import RunData
from megatron_ar3po.reporting.spending_sections import (
    budget_section,
    fate_section,
    stage_section,
    store_section,
    time_section,
)

SECTIONS: tuple[Callable[[RunData], Section | None], ...] = (
    accuracy_section,
    stage_section,
    fate_section,
    budget_section,
    cost_section,
    store_section,
    time_section,
    update_section,
    mismatch_section,
    length_section,
    history_section,
    sample_section,
)


def page_of_run(run: RunData, summary: RunSummary) -> Page:
    sections = [section for build in SECTIONS if (section := build(run)) is not None]
    return Page(
        title=run.name,
        subtitle=" · ".join(_subtitle(run, summary)),
        findings=[(found.key, found.mark, found.text) for found in find_all(run)],
        notes=run.notes,
        sections=[*sections, _totals(summary)],
        data={"prompts": prompt_histories(run), "samples": run.recorded.groups},
    )


def _subtitle(run: RunData, summary: RunSummary) -> Iterator[str]:
    if summary.algorithm:
        yield summary.algorithm
    yield f"{run.last_step:,} steps"
    if model := run.setting("model.path"):
        yield str(model)
    if verifier := run.setting("rewards.verifier"):
        yield f"verifier {verifier}"
    yield str(run.folder)


def _totals(summary: RunSummary) -> Section:
    return Section(
        key="totals",
        title="Totals",
        look_for="Sums over the run's ledger, which are held against the servers' own counters in every step.",
        markup=table(list(summary_rows(summary))),
    )
