"""`upgrade_run`: the folder of a run of the version before, brought to today's format.

One file changes: resolved_config.yaml gets today's names of options, and what it was stays in resolved_config.v1.yaml.
Checkpoints, metrics, ledger, rollouts and the reuse store are read as they are. Dumps of a step cannot be brought over:
they hold what was made of the groups, and no longer the groups.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from megatron_ar3po.config.load import config_from_dict, to_yaml
from megatron_ar3po.config.renamed import RENAMED, rename_options, renamed_options
from megatron_ar3po.distributed.rank_status import read_statuses
from megatron_ar3po.folder_owner import FolderOwner
from megatron_ar3po.run.durable import add_checksum, write_durably
from megatron_ar3po.run.folder_format import (
    CONFIG_FILE,
    FORMAT,
    check_not_newer,
    read_format,
    write_format,
)

OLD_CONFIG_FILE = "resolved_config.v1.yaml"
GONE_AFTER_S = 60.0  # of a rank that has not written


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """What is done to a folder, or would be."""

    renamed: Mapping[str, Any]  # old name -> the value, which stays
    lost_dumps: tuple[str, ...]  # that can no longer be replayed

    def lines(self) -> list[str]:
        width = max((len(old) for old in self.renamed), default=0)
        return [
            f"{CONFIG_FILE} is written anew, the old one kept as {OLD_CONFIG_FILE}:",
            *(
                f"  {old:{width}}  ->  {RENAMED[old]}: {_show(value)}"
                for old, value in self.renamed.items()
            ),
            *(
                f"{dump} can no longer be replayed; dump the step anew with debug.dump_steps"
                for dump in self.lost_dumps
            ),
            "all other files stay as they are",
        ]


def upgrade_run(folder: Path, *, is_dry_run: bool = False) -> Upgrade | None:
    """None when `folder` has today's format. Killed at any moment it leaves a folder of one format or the other, and
    the next call does what is left. Raises ValueError for what is no run, runs, or is of a later version."""
    if (found := read_format(folder)) is None:
        raise ValueError(_explain_no_run(folder))
    check_not_newer(folder)
    if found == FORMAT:
        return None
    _check_not_running(folder)
    kept = folder / OLD_CONFIG_FILE
    # Where it is there already, an upgrade was cut short, and CONFIG_FILE may be the new one.
    text = (kept if kept.is_file() else folder / CONFIG_FILE).read_text("utf-8")
    old = yaml.safe_load(text)
    if not isinstance(old, dict):
        raise ValueError(f"{folder / CONFIG_FILE} holds no sections; it is no config of a run.")
    values = cast("dict[str, Any]", old)
    config = config_from_dict(rename_options(values))
    if not is_dry_run:
        owner = FolderOwner.claim(folder)
        try:
            write_durably(kept, text)
            write_durably(folder / CONFIG_FILE, add_checksum(to_yaml(config)))
            write_format(folder)
        finally:
            owner.release()
    dumps = sorted(str(path.relative_to(folder)) for path in folder.glob("dumps/*.pt"))
    return Upgrade(renamed=dict(renamed_options(values)), lost_dumps=tuple(dumps))


def _explain_no_run(path: Path) -> str:
    if path.is_file():
        return (
            f"{path} is a file, and a run's folder is wanted; `ar3po train {path} --dry-run` names the options of a "
            "config that have other names now."
        )
    return f"{path} holds no run (no {CONFIG_FILE}); name a run's folder, such as runs/NAME."


def _check_not_running(folder: Path) -> None:
    """A run of a version that had no owner.json, by what its ranks wrote."""
    now = time.time()
    for status in read_statuses(folder / "status"):
        if not status.end and status.age_s(now) <= GONE_AFTER_S:
            raise ValueError(
                f"{folder} is running, {status.describe(now)}; stop it first. Where it was killed, try again in "
                f"{GONE_AFTER_S:.0f} s."
            )


def _show(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()
