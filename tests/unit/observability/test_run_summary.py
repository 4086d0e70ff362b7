"""The table at the end of a run. Its figures: tests/e2e/test_main_job.py."""

import io
import json
import re

from rich.console import Console

from megatron_ar3po.observability.run_summary import print_summary, summarize
from megatron_ar3po.sampling_cost import SamplingCost, Spent


def test_the_folder_of_a_run_is_shown_whole_however_long_it_is(tmp_path):
    folder = tmp_path / ("a_long_name_" * 12)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    out = io.StringIO()
    print_summary(summarize(folder, SamplingCost()), Console(file=out, width=60))
    assert str(folder) in re.sub(r"[\s│]", "", out.getvalue())


def test_a_folder_without_a_ledger_has_the_totals_of_its_metrics(tmp_path):
    """Copied without RUN/ledger, or of a version that had none. 300 responses of 1,500 tokens; the evaluation after
    them has no totals. With a ledger its own count."""
    rows = [
        {"step": 1, "rollout/responses_total": 100, "rollout/tokens_total": 500},
        {"step": 2, "rollout/responses_total": 300, "rollout/tokens_total": 1500},
        {"step": 2, "eval/pass_at_1": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    without = summarize(tmp_path, SamplingCost())
    assert (without.responses_total, without.tokens_total, without.cost) == (300, 1500, {})
    counted = SamplingCost(classes={"kept": Spent(responses=310, tokens=1550)})
    assert summarize(tmp_path, counted).responses_total == 310
