"""Large data sets are tokenized once: their table is kept in a folder under a key that names all that decides it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from megatron_ar3po.data.prompt_table import PromptTable, open_table

logger = logging.getLogger(__name__)

_LOCK_INTERVAL_S = 0.5


class Built(NamedTuple):
    table: PromptTable
    said: list[str]  # what whoever loads it is warned of


@dataclass(frozen=True, slots=True)
class PromptCache:
    """KEY.arrow, the table, and KEY.json, written last: without it there is no entry."""

    folder: Path
    key: str
    limit_s: float = 3600.0  # how long to wait for a process that makes the same table

    def load(self, build: Callable[[Path | None], Built]) -> Built:
        """The entry, made by `build` where there is none. A folder that cannot be written costs the cache, not the
        run."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._alone():
                return self._open() or self._make(build)
        except OSError as error:
            logger.warning(
                "prompts are tokenized anew, as they cannot be kept in %s (%s); name another folder by data.cache_dir",
                self.folder,
                error.strerror or error,
            )
            return build(None)

    def _open(self) -> Built | None:
        try:
            entry = json.loads(self._path("json").read_text("utf-8"))
            table = open_table(self._path("arrow"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # cut off or damaged: it is made again
            logger.warning("%s cannot be read (%s): made again", self._path("arrow"), error)
            return None
        if len(table) != entry["rows"]:
            logger.warning("%s is not the table that was written: made again", self._path("arrow"))
            return None
        logger.info("%d prompts as they were tokenized before: %s", len(table), self._path("arrow"))
        return Built(table, entry["said"])

    def _make(self, build: Callable[[Path | None], Built]) -> Built:
        unfinished = self._path(f"{os.getpid()}.unfinished")
        try:
            built = build(unfinished)
            built.table.give_name(self._path("arrow"))
            entry = json.dumps({"rows": len(built.table), "said": built.said})
            unfinished.unlink(missing_ok=True)  # a table that another has taken the place of
            unfinished.write_text(entry, "utf-8")
            unfinished.replace(self._path("json"))
            return built
        finally:
            for path in self.folder.glob(f"{unfinished.name}*"):
                path.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes an entry; where files cannot be locked, each for itself."""
        with self._path("lock").open("w", encoding="utf-8") as file:
            until = time.monotonic() + self.limit_s
            while True:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > until:
                        logger.warning("%s: not waited for any longer", self._path("lock"))
                        break
                    time.sleep(_LOCK_INTERVAL_S)
                except OSError:  # a mount without locks
                    break
                else:
                    break
            yield

    def _path(self, ending: str) -> Path:
        return self.folder / f"{self.key}.{ending}"
