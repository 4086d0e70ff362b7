"""The table at the end of a run. Its figures: tests/e2e/test_main_job.py."""

import io
import re

from rich.console import Console

from megatron_ar3po.observability.run_summary import print_summary, summarize
from megatron_ar3po.sampling_cost import SamplingCost


def test_the_folder_of_a_run_is_shown_whole_however_long_it_is(tmp_path):
    folder = tmp_path / ("a_long_name_" * 12)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    out = io.StringIO()
    print_summary(summarize(folder, SamplingCost()), Console(file=out, width=60))
    assert str(folder) in re.sub(r"[\s│]", "", out.getvalue())
