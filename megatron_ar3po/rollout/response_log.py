"""`ResponseLog`: the finished responses of a rollout, written down as they come: a kill costs none of them twice.

    RUN/ledger/responses/step_00017.dp01-of-02.jsonl      one line for each response (`response_rows`)

Promises:
- a response is in the file before its prompt hears of it: a process killed at any moment loses none that was graded,
  a node that dies those of the last `run.ledger_sync_s` seconds;
- whoever does the step again gets those responses back as they were, tokens, log-probs and verdict to the bit, and
  draws only what is missing, at any data-parallel size: what a replica wrote is read by whoever owns the prompt now;
- a response comes back only for the same draw (id, prompt, seed, policy version) with the same settings, by a policy
  that was trained on the same. Other rows, and damaged ones, are left where they are, and said;
- a verdict that the verifier failed to give, or gave under other settings, is asked for again.

`append_file` brings the lines to the disk; `PolicyDigest` (run/) says which policy it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.rollout.append_file import AppendFile
from megatron_ar3po.rollout.draws import Draw
from megatron_ar3po.rollout.response_rows import (
    DamagedRowError,
    LoggedResponse,
    Origin,
    decode_row,
    encode_row,
    read_fields,
)
from megatron_ar3po.sampling_cost import NOTHING, Spent
from megatron_ar3po.types import ScoredResponse
from megatron_ar3po.usage import Retries

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d{5,})\.dp(\d+)-of-(\d+)\.jsonl")
_LOOK_AT_OWNER_EVERY_S = 1.0


class FoundResponse(NamedTuple):
    scored: ScoredResponse
    has_verdict: bool  # False: to be graded again


class ResponseLog(Protocol):
    """What the controller asks of it. Leader only."""

    def open_step(self, step: int) -> None:
        """Before a step's draws; again for the same step does nothing."""
        ...

    def find(self, draw: Draw, *, is_cancelled: bool) -> FoundResponse | None:
        """The response to this draw, if it is there already; it counts as claimed then. One that was cut off is there
        for a draw that is cancelled, and for no other."""
        ...

    def find_winner(self, draws: Sequence[Draw]) -> ScoredResponse | None:
        """Of the draws of one stage: the first correct response that is there, if it came before others had ended:
        under `rollout.cancel_solved` those were cancelled then."""
        ...

    async def append(self, scored: ScoredResponse) -> None:
        """A response that was drawn, or graded, just now. Raises OSError where the disk takes no more."""
        ...

    @property
    def restored(self) -> frozenset[str]:
        """The response ids of this step that were claimed."""
        ...


class NoResponseLog:
    """Remembers nothing."""

    restored: frozenset[str] = frozenset()

    def open_step(self, step: int) -> None:
        return None

    def find(self, draw: Draw, *, is_cancelled: bool) -> FoundResponse | None:
        return None

    def find_winner(self, draws: Sequence[Draw]) -> ScoredResponse | None:
        return None

    async def append(self, scored: ScoredResponse) -> None:
        return None


class ResponseLogFolder:
    """The `ResponseLog` of one replica, in a folder that all replicas share."""

    def __init__(
        self,
        folder: Path,
        layout: ParallelLayout,
        *,
        settings: str,
        grading: str,
        policy_digest: Callable[[], str] = lambda: "",
        sync_s: float = 5.0,
        check_ownership: Callable[[], None] = lambda: None,
    ) -> None:
        """`settings`, `grading`: digests of what determines a response, and its verdict. `policy_digest`: of the policy
        as it is now. `check_ownership` raises where another process has taken the run over."""
        self._folder, self._layout = folder, layout
        self._settings, self._grading = settings, grading
        self._policy_digest = policy_digest
        self._sync_s = sync_s
        self._check_ownership = check_ownership
        self._checked_at = 0.0
        self._step = -1
        self._origin = Origin(settings, "", grading)
        self._usable: dict[
            str, LoggedResponse
        ] = {}  # of this step and replica, in the order written
        self._claimed: set[str] = set()
        self._file: AppendFile | None = None

    def open_step(self, step: int) -> None:
        if step == self._step:
            return
        self.close()
        self._step = step
        self._origin = Origin(self._settings, self._policy_digest(), self._grading)
        self._usable, self._claimed = {}, set()
        for path in self._files_of(step):
            self._read(path)
        if self._usable:
            logger.info(
                "step %d: %d responses are in %s already and are not drawn again",
                step,
                len(self._usable),
                self._folder,
            )

    def find(self, draw: Draw, *, is_cancelled: bool) -> FoundResponse | None:
        row = self._usable.get(draw.response_id)
        if row is None or not _is_of(row, draw):
            return None
        was_cut_off = row.scored.response.finish_reason == "abort"
        if was_cut_off and not is_cancelled:
            return None
        self._claimed.add(draw.response_id)
        return FoundResponse(row.scored, was_cut_off or self._has_verdict(row))

    def find_winner(self, draws: Sequence[Draw]) -> ScoredResponse | None:
        by_id = {draw.response_id: draw for draw in draws}
        ended = [
            row
            for response_id, row in self._usable.items()
            if response_id in by_id and _is_of(row, by_id[response_id])
        ]
        for position, row in enumerate(ended, start=1):
            if row.scored.is_correct and self._has_verdict(row):
                return row.scored if position < len(draws) else None
        return None

    async def append(self, scored: ScoredResponse) -> None:
        self._look_at_owner()
        if self._file is None:
            self._file = AppendFile(self._path_of(self._step), sync_s=self._sync_s)
        self._file.append(encode_row(scored, self._origin))
        if not self._sync_s:
            await asyncio.to_thread(self._file.sync)

    @property
    def restored(self) -> frozenset[str]:
        return frozenset(self._claimed)

    def remove_up_to(self, step: int) -> None:
        """No resume will do this step again, nor an earlier one. Another replica's file is left to that one, which may
        have it open: on NFS what another node has removed can be neither written nor closed."""
        if self._step <= step:
            self.close()
        for path, of_step in self._files():
            if of_step <= step:
                path.unlink(missing_ok=True)  # every replica comes by for those of other layouts

    def close(self) -> None:
        """What was appended is on the disk when this returns."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _has_verdict(self, row: LoggedResponse) -> bool:
        return row.origin.grading == self._grading and row.scored.verdict.status != "error"

    def _path_of(self, step: int) -> Path:
        layout = self._layout
        replica = f"dp{layout.dp_rank:02d}-of-{layout.data_parallel_size:02d}"
        return self._folder / f"step_{step:05d}.{replica}.jsonl"

    def _files_of(self, step: int) -> list[Path]:
        """In which this replica's prompts can be, the oldest first: its own, and those of other layouts."""
        found = [path for path, of_step in self._files() if of_step == step]
        return [path for _, path in sorted((path.stat().st_mtime, path) for path in found)]

    def _files(self) -> Iterator[tuple[Path, int]]:
        """With their steps: all but what the other replicas of this layout write."""
        for path, written in _files_in(self._folder):
            of_step, dp_rank, dp_size = map(int, written.groups())
            is_of_this_layout = dp_size == self._layout.data_parallel_size
            if not is_of_this_layout or dp_rank == self._layout.dp_rank:
                yield path, of_step

    def _read(self, path: Path) -> None:
        num_damaged, num_other = 0, 0
        if path.is_file() and not path.stat().st_size:  # killed before its first row, or emptied
            logger.warning("%s holds no response; they are drawn again", path)
        for row in _decode_lines(_read_lines(path)):
            if row is None:
                num_damaged += 1
            elif self._layout.owner_dp_rank(row.scored.response.prompt_id) == self._layout.dp_rank:
                if row.origin[:2] == self._origin[:2]:
                    self._usable[row.scored.response.response_id] = row
                else:
                    num_other += 1
        if num_damaged:
            logger.warning(
                "%s damaged; %s drawn again",
                _count(num_damaged, f"of {path}"),
                "its response is" if num_damaged == 1 else "their responses are",
            )
        if num_other:
            logger.warning(
                "%s of other settings or of another policy and left alone",
                _count(num_other, f"of {path}"),
            )

    def _look_at_owner(self) -> None:
        """By the wall clock: a process that was stopped, or a laptop that slept, looks before it writes."""
        now = time.time()
        if not 0 <= now - self._checked_at < _LOOK_AT_OWNER_EVERY_S:
            self._check_ownership()
            self._checked_at = now


def count_logged(folder: Path, *, after_step: int) -> dict[int, Spent]:
    """Of each later step what its rows say was generated for it, by whatever process, layout and policy, and whatever
    became of it. A response that was graded twice has two rows and was drawn once; damaged rows say nothing."""
    drawn: dict[int, dict[tuple[object, ...], Spent]] = {}
    for path, written in _files_in(folder):
        step = int(written[1])
        for line in _read_lines(path) if step > after_step else ():
            with contextlib.suppress(DamagedRowError, KeyError):
                row, _ = read_fields(line)
                retries = Retries(**row["retries"])
                spent = Spent(
                    responses=row["was_begun"] + retries.requests,
                    tokens=row["num_tokens"] + retries.tokens,
                )
                drawn.setdefault(step, {})[_draw_of(row)] = spent
    return {step: sum(rows.values(), NOTHING) for step, rows in sorted(drawn.items())}


def _draw_of(row: Mapping[str, Any]) -> tuple[object, ...]:
    """One that was cut off, or damaged, may be drawn again under its id; it took another time then."""
    return tuple(row[name] for name in ("settings", "policy", "response_id", "elapsed_s"))


def _files_in(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in folder.glob("step_*.jsonl"):
        if (written := _NAME.fullmatch(path.name)) is not None:
            yield path, written


def _read_lines(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(b"\n") if line]
    except OSError as error:
        logger.warning(
            "%s cannot be read (%s); its responses are drawn again", path, error.strerror
        )
        return []


def _decode_lines(lines: Iterable[bytes]) -> Iterator[LoggedResponse | None]:
    """None for each line that is damaged, one that was cut off at the end included."""
    for line in lines:
        try:
            yield decode_row(line)
        except DamagedRowError:
            yield None


def _is_of(row: LoggedResponse, draw: Draw) -> bool:
    response = row.scored.response
    drawn = (response.response_id, response.prompt_id, response.seed, response.policy_version)
    return drawn == (
        draw.response_id,
        draw.prompt.prompt_id,
        draw.seed,
        draw.policy_version,
    )


def _count(rows: int, where: str) -> str:
    """
    >>> _count(1, "of FILE"), _count(2, "of FILE")
    ('1 row of FILE is', '2 rows of FILE are')
    """
    return f"{rows} {'row' if rows == 1 else 'rows'} {where} {'is' if rows == 1 else 'are'}"
