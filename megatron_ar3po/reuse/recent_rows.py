"""`RecentRows`: the rows that trained in the last steps, on disk, to be trained on again (`replayer.py`).

    RUN/replay/step_00017.dp01-of-02.jsonl
    {"kind": "step", "step": 17, "responses": 64, "rows": 51}            of this replica
    {"kind": "row", "response_id": "s17.p3.1.0", "advantage": 1.2, ..., "data": "..."}

`data` holds the token ids of the prompt and of the response (int32), then the log-probs (float32), little endian, in
base64: their bits are kept. Each line has a checksum of itself.

Promises:
- a process that is killed leaves a file whole or not at all; after `sync`, which comes before a checkpoint, so does a
  power loss;
- a run that goes on from a checkpoint removes the files of later steps and reads those of earlier ones, whatever the
  data-parallel size was that wrote them: each leader takes the rows of the prompts that it owns now;
- files that no window from the oldest kept checkpoint on could reach are removed with it;
- a damaged line costs its row, a lost file its rows, and both are said;
- rows from before steps without replay (`reuse.replay_frac` was 0) do not come back.

Leader only.
"""

from __future__ import annotations

import logging
import os
import re
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ar3po.algorithm.replay import first_step_of_window
from megatron_ar3po.disk_faults import naming
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.file_digests import seal_row, unseal_row
from megatron_ar3po.types import TrainingSample

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step_(\d{5,})\.dp(\d+)-of-(\d+)\.jsonl")


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RecentRows:
    def __init__(
        self,
        folder: Path,
        layout: ParallelLayout,
        *,
        window: int,
        last_step: int,
        check_ownership: Callable[[], None] = lambda: None,
        sync_path: Callable[[Path], None] = _sync_path,
    ) -> None:
        """As of the end of `last_step`: what later steps have left is removed. `window`: in responses.
        `check_ownership` raises where another process has the run's folder now. `sync_path`: brings a file, or the
        names in a folder, to the disk."""
        self._folder, self._layout, self._window = folder, layout, window
        self._check_ownership = check_ownership
        self._sync_path = sync_path
        self._rows: defaultdict[int, list[TrainingSample]] = defaultdict(list)  # of own prompts
        self._responses: defaultdict[int, int] = defaultdict(int)  # over all replicas
        self._unsynced: list[Path] = []
        folder.mkdir(parents=True, exist_ok=True)
        there: defaultdict[int, list[str]] = defaultdict(list)
        for path, step in list(self._files()):
            if step > last_step:
                path.unlink(missing_ok=True)  # every leader comes by
            else:
                there[step].append(path.name)
                self._read(path, step)
        self._forget_before_a_gap(there, last_step)
        self._forget_rows_out_of_window()

    @property
    def steps(self) -> Mapping[int, Sequence[TrainingSample]]:
        """The rows in the window, of the prompts that this replica owns, by step."""
        return self._rows

    @property
    def num_responses(self) -> int:
        """Of the steps in the window, over all replicas."""
        first = first_step_of_window(self._responses, self._window)
        return sum(count for step, count in self._responses.items() if step >= first)

    def keep(
        self, rows: Sequence[TrainingSample], *, step: int, num_own: int, num_responses: int
    ) -> None:
        """The step's rows; it had `num_own` responses on this replica, `num_responses` on all."""
        self._check_ownership()
        head = {"kind": "step", "step": step, "responses": num_own, "rows": len(rows)}
        lines = [seal_row(head), *(seal_row(encode_row(row)) for row in rows)]
        path = self._path_of(step)
        _write_whole(path, b"".join(b"%s\n" % line for line in lines))
        self._unsynced.append(path)
        self._rows[step] = list(rows)
        self._responses[step] = num_responses
        self._forget_rows_out_of_window()

    def sync(self) -> None:
        """What was kept is on the disk when this returns: the checkpoint that comes rests on it."""
        unsynced, self._unsynced = self._unsynced, []
        for path in (*unsynced, *([self._folder] if unsynced else [])):
            with naming(path):
                self._sync_path(path)

    def forget_before(self, step: int) -> None:
        """No resume will go back before the end of `step`: files that no window from there on could reach go."""
        done = {s: count for s, count in self._responses.items() if s <= step}
        first = first_step_of_window(done, self._window)
        for path, of_step in list(self._files()):
            if of_step < first:
                path.unlink(missing_ok=True)
        for of_step in [s for s in self._responses if s < first]:
            del self._responses[of_step]

    def _forget_before_a_gap(self, there: Mapping[int, Sequence[str]], last_step: int) -> None:
        """A step without a file was one without replay: what is older is none of the last steps. `there`: the names of
        a step's files."""
        first = last_step + 1
        while first - 1 in there:
            first -= 1
            names = there[first]
            size = max(int(named[3]) for name in names if (named := _NAME.fullmatch(name)))
            if len(names) != size:
                logger.warning(
                    "%s has files of %d of the %d replicas for step %d; the others' rows are not replayed, and the "
                    "draws are others than with them",
                    self._folder,
                    len(names),
                    size,
                    first,
                )
        for step in [s for s in there if s < first]:
            self._rows.pop(step, None)
            self._responses.pop(step, None)

    def _forget_rows_out_of_window(self) -> None:
        first = first_step_of_window(self._responses, self._window)
        for step in [s for s in self._rows if s < first]:
            del self._rows[step]

    def _path_of(self, step: int) -> Path:
        layout = self._layout
        replica = f"dp{layout.dp_rank:02d}-of-{layout.data_parallel_size:02d}"
        return self._folder / f"step_{step:05d}.{replica}.jsonl"

    def _files(self) -> Iterator[tuple[Path, int]]:
        for path in sorted(self._folder.glob("step_*.jsonl")):
            if (named := _NAME.fullmatch(path.name)) is not None:
                yield path, int(named[1])

    def _read(self, path: Path, step: int) -> None:
        lines = [line for line in path.read_bytes().split(b"\n") if line]
        num_damaged, num_rows = 0, None
        for line in lines:
            try:
                row = unseal_row(line)
                if row["kind"] == "step":
                    self._responses[step] += row["responses"]
                    num_rows = row["rows"]
                elif self._layout.owner_dp_rank(row["prompt_id"]) == self._layout.dp_rank:
                    self._rows[step].append(decode_row(row))
            except (ValueError, KeyError, TypeError):  # whatever damage has made of the line
                num_damaged += 1
        is_short = num_rows is not None and num_rows > len(lines) - 1
        if num_damaged or num_rows is None or is_short:
            logger.warning(
                "%s is damaged (%d of its lines, or some are missing); its other rows are replayed, and the draws are "
                "others than without the damage",
                path,
                num_damaged,
            )


def encode_row(sample: TrainingSample) -> dict[str, Any]:
    parts = (
        np.asarray(sample.prompt_token_ids, "<i4"),
        np.asarray(sample.response_token_ids, "<i4"),
        np.asarray(sample.behaviour_logprobs, "<f4"),
    )
    return {
        "kind": "row",
        "response_id": sample.response_id,
        "prompt_id": sample.prompt_id,
        "position": sample.group_position,
        "advantage": sample.advantage,
        "reward": sample.reward,
        "policy_version": sample.policy_version,
        "prompt_tokens": len(sample.prompt_token_ids),
        "response_tokens": sample.num_response_tokens,
        "data": b64encode(b"".join(part.tobytes() for part in parts)).decode(),
    }


def decode_row(row: Mapping[str, Any]) -> TrainingSample:
    """Raises ValueError or KeyError where it is none."""
    data, prompt, response = b64decode(row["data"]), row["prompt_tokens"], row["response_tokens"]
    if len(data) != 4 * (prompt + 2 * response):
        raise ValueError(f"{len(data)} bytes for {prompt} + {response} tokens")
    tokens = np.frombuffer(data, "<i4", prompt + response)
    return TrainingSample(
        group_position=row["position"],
        prompt_id=row["prompt_id"],
        response_id=row["response_id"],
        prompt_token_ids=tuple(tokens[:prompt].tolist()),
        response_token_ids=tokens[prompt:].astype(np.int32),
        behaviour_logprobs=np.frombuffer(data, "<f4", offset=4 * (prompt + response)).astype(
            np.float32
        ),
        advantage=row["advantage"],
        reward=row["reward"],
        origin="fresh",
        policy_version=row["policy_version"],
    )


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with naming(path):
        temporary.write_bytes(content)
    temporary.replace(path)
