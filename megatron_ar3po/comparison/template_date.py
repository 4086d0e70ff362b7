"""What chat templates that write the date take for now, in all runs of a comparison."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from megatron_ar3po.config.load import load_config
from megatron_ar3po.run.facts import read_rendered_at
from megatron_ar3po.run.folder_format import CONFIG_FILE

MARK = "comparison.json"  # of a finished run


def template_date(out: Path) -> str:
    """That of the runs that are finished in `out`, or now: a comparison that goes on after midnight asks the same."""
    for mark in sorted((out / "runs").glob(f"*/{MARK}")):
        run = mark.parent
        if given := load_config([run / CONFIG_FILE]).data.template_date:
            return given
        return read_rendered_at(run).isoformat(timespec="seconds")
    return datetime.now().isoformat(timespec="seconds")
