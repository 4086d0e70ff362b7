"""Folders that appear whole or not at all, and are made once for one recipe."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def is_made(folder: Path, recipe: Mapping[str, object]) -> bool:
    """Whether `folder` was made with this recipe: task.json says so, and the folder was renamed
    with it inside."""
    facts = folder / "task.json"
    return facts.is_file() and json.loads(facts.read_text())["recipe"] == recipe


@contextmanager
def make_whole(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `folder` when the block ends without an
    error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
