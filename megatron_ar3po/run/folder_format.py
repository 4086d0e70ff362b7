"""Which format a run's folder has. RUN/version.json says it, and which version of the package wrote it.

    1   0.1.0, which wrote no version.json
    2   options have other names in resolved_config.yaml (config/renamed.py); a dump of a step holds response groups

What a command needs decides what it takes: a resume, an evaluation or another grading reads the config and wants
today's format (`check_format`); a report reads what has not changed and wants none that is newer (`check_not_newer`).
The reuse store keeps a version of its own in its files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from megatron_ar3po import __version__
from megatron_ar3po.run.durable import write_durably

FORMAT = 2
CONFIG_FILE = "resolved_config.yaml"
VERSION_FILE = "version.json"


def write_format(folder: Path) -> None:
    content = {"format": FORMAT, "written_by": __version__}
    write_durably(folder / VERSION_FILE, json.dumps(content) + "\n")


def read_format(folder: Path) -> int | None:
    """None where `folder` holds no run. Raises ValueError for a version.json that cannot be read."""
    if (folder / VERSION_FILE).is_file():
        return _read_version(folder)["format"]
    return 1 if (folder / CONFIG_FILE).is_file() else None


def check_not_newer(folder: Path) -> None:
    """Raises ValueError for a folder that a later version of the package wrote."""
    found = read_format(folder)
    if found is not None and found > FORMAT:
        writer = _read_version(folder)["written_by"]
        raise ValueError(
            f"{folder} has format {found} and was written by megatron_ar3po {writer}; this is {__version__}, which "
            f"knows formats up to {FORMAT}: install {writer} or later."
        )


def check_format(folder: Path) -> None:
    """Raises ValueError for a folder of another format than today's; a folder that holds no run is let through."""
    check_not_newer(folder)
    found = read_format(folder)
    if found is not None and found < FORMAT:
        raise ValueError(
            f"{folder} has format {found}, of a version before this one{_why_first(folder)}; `ar3po upgrade {folder}` "
            f"brings it to format {FORMAT}."
        )


def _why_first(folder: Path) -> str:
    is_named = (folder / VERSION_FILE).is_file()
    return "" if is_named else f" (or {VERSION_FILE} was removed: bring it back then)"


def _read_version(folder: Path) -> dict[str, Any]:
    path = folder / VERSION_FILE
    try:
        content = json.loads(path.read_text("utf-8"))
        return {"format": int(content["format"]), "written_by": str(content["written_by"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); a run of this version has "
            f'{{"format": {FORMAT}, "written_by": "{__version__}"}} there.'
        ) from error
