"""Servers read the policy from a folder (`/update_weights_from_disk`): the fallback that needs no common memory and no
open port, only a file system that trainer and servers both see."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from megatron_ar3po.hf_folder import HfFolderWriter
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.server_calls import ServerCalls


class DiskTransport:
    """`folder`/version-N holds the newest policy, whole; the one before goes when all servers have read it. A server
    that cannot use a folder goes back to the one it has read last, hence it is kept until then."""

    needs_session = False

    def __init__(self, *, model_path: Path, folder: Path) -> None:
        self._model_path, self._folder = model_path, folder
        self._writer: HfFolderWriter | None = None
        self._current: Path | None = None

    def begin(self, receivers: Sequence[Receiver]) -> bool:
        return False

    def assist(self, tensors: Sequence[tuple[str, Tensor]], *, is_leader: bool) -> None: ...

    def open(self, calls: ServerCalls) -> None:
        self._current = (self._folder / f"version-{calls.version}").resolve()
        self._writer = HfFolderWriter(source=self._model_path, target=self._current)

    def send(
        self, calls: ServerCalls, tensors: Sequence[tuple[str, Tensor]], weight_version: str
    ) -> None:
        assert self._writer is not None, "open comes first"
        self._writer.add(tensors)

    def finish(self, calls: ServerCalls, weight_version: str) -> None:
        assert self._writer is not None and self._current is not None, "open comes first"
        self._writer.finish()
        body = {
            "model_path": str(self._current),
            "weight_version": weight_version,
            "flush_cache": False,
        }
        calls.on_all(lambda url: calls.post(url, "/update_weights_from_disk", body))

    def release(self, *, has_failed: bool) -> None:
        self._writer = None
        if not has_failed and self._current is not None:
            self._remove_all_but(self._current.name)

    def forget(self, url: str) -> None: ...

    def close(self) -> None:
        """The servers end with the run; the policy itself is in its checkpoints."""
        self._remove_all_but("")

    def _remove_all_but(self, name: str) -> None:
        for path in self._folder.glob("version-*"):
            if path.name != name:
                shutil.rmtree(path)
