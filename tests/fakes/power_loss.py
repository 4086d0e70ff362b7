"""What a disk may hold after the power went: SQLite's writes and syncs recorded, and every outcome they allow.

`RecordingVfs` stands between SQLite and the operating system and becomes the default for new connections, so the code
under test needs no door for it. It notes each write, truncation, deletion and sync and passes it on. Nothing that was
written is safe until its file is synced: `disks_after_power_loss` drops, keeps or tears what was not.
"""

from __future__ import annotations

import ctypes as c
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
Disk = dict[str, bytes]  # file name -> content


@dataclass(frozen=True)
class Event:
    """`kind`: write, truncate, delete, sync, or ack (the caller was told that step `offset` is safe)."""

    kind: str
    file: str = ""
    offset: int = 0
    data: bytes = b""


def disks_after_power_loss(start: Disk, events: list[Event], *, seed: int = 0) -> Iterator[Disk]:
    """Outcomes of a power loss after the last of `events`: all unsynced writes lost, all kept, those of one file kept,
    and random parts of them, down to sectors of one write."""
    durable = dict(start)
    pending: dict[str, list[Event]] = {}
    for event in events:
        if event.kind == "sync":
            for earlier in pending.pop(event.file, []):
                _apply(durable, earlier)
        elif event.kind != "ack":
            pending.setdefault(event.file, []).append(event)
    files = sorted(pending)
    for kept in itertools.chain.from_iterable(
        itertools.combinations(files, n) for n in range(len(files) + 1)
    ):
        disk = dict(durable)
        for file in kept:
            for event in pending[file]:
                _apply(disk, event)
        yield disk
    rng = random.Random(f"{seed}:{len(events)}")
    for _ in range(2 if pending else 0):
        disk = dict(durable)
        for file in files:
            for event in pending[file]:
                for part in _parts(event):
                    if rng.random() < 0.5:
                        _apply(disk, part)
        yield disk


def _parts(event: Event) -> list[Event]:
    if event.kind != "write":
        return [event]
    return [
        Event("write", event.file, event.offset + i, event.data[i : i + SECTOR_BYTES])
        for i in range(0, len(event.data), SECTOR_BYTES)
    ]


def _apply(disk: Disk, event: Event) -> None:
    content = disk.get(event.file, b"")
    if event.kind == "delete":
        disk.pop(event.file, None)
    elif event.kind == "truncate":
        disk[event.file] = content[: event.offset].ljust(event.offset, b"\0")
    else:
        content = content.ljust(event.offset, b"\0")
        disk[event.file] = (
            content[: event.offset] + event.data + content[event.offset + len(event.data) :]
        )


# -- SQLite's C interface (sqlite3.h), as far as it is needed ---------------------------------------------------------

_p, _i, _i64 = c.c_void_p, c.c_int, c.c_int64
_METHODS: dict[str, type] = {
    "xClose": c.CFUNCTYPE(_i, _p),
    "xRead": c.CFUNCTYPE(_i, _p, _p, _i, _i64),
    "xWrite": c.CFUNCTYPE(_i, _p, _p, _i, _i64),
    "xTruncate": c.CFUNCTYPE(_i, _p, _i64),
    "xSync": c.CFUNCTYPE(_i, _p, _i),
    "xFileSize": c.CFUNCTYPE(_i, _p, _p),
    "xLock": c.CFUNCTYPE(_i, _p, _i),
    "xUnlock": c.CFUNCTYPE(_i, _p, _i),
    "xCheckReservedLock": c.CFUNCTYPE(_i, _p, _p),
    "xFileControl": c.CFUNCTYPE(_i, _p, _i, _p),
    "xSectorSize": c.CFUNCTYPE(_i, _p),
    "xDeviceCharacteristics": c.CFUNCTYPE(_i, _p),
}
_OPEN = c.CFUNCTYPE(_i, _p, _p, _p, _i, _p)
_DELETE = c.CFUNCTYPE(_i, _p, c.c_char_p, _i)


class _IoMethods(c.Structure):
    _fields_ = [("iVersion", _i), *_METHODS.items()]


class _File(c.Structure):
    _fields_ = [("pMethods", c.POINTER(_IoMethods)), ("padding", _p)]  # the real file follows


class _Vfs(c.Structure):
    _fields_ = [
        ("iVersion", _i),
        ("szOsFile", _i),
        ("mxPathname", _i),
        ("pNext", _p),
        ("zName", c.c_char_p),
        ("pAppData", _p),
        ("xOpen", _OPEN),
        ("xDelete", _DELETE),
        *((name, _p) for name in ("xAccess", "xFullPathname", "xDlOpen", "xDlError", "xDlSym")),
        *((name, _p) for name in ("xDlClose", "xRandomness", "xSleep", "xCurrentTime")),
        ("xGetLastError", _p),
    ]


def sqlite_library() -> c.CDLL | None:
    """The SQLite that Python's sqlite3 module uses, where it is a shared library."""
    import sqlite3  # noqa: F401  (maps the library into this process)

    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    paths = [path for path in mapped if "libsqlite3" in path]
    return c.CDLL(paths[0]) if paths else None


@dataclass
class RecordingVfs:
    library: c.CDLL
    events: list[Event] = field(default_factory=list)

    def __enter__(self) -> RecordingVfs:
        self.library.sqlite3_vfs_find.restype = c.POINTER(_Vfs)
        self._real = self.library.sqlite3_vfs_find(None)
        self._names: dict[int, str] = {}
        self._vfs = _Vfs.from_buffer_copy(self._real.contents)
        self._vfs.iVersion = 1
        self._vfs.zName = b"recording"
        self._vfs.szOsFile = self._real.contents.szOsFile + c.sizeof(_File)
        self._vfs.xOpen = _OPEN(self._open)
        self._vfs.xDelete = _DELETE(self._delete)
        self._methods = _IoMethods(
            1, *(kind(self._passing(name)) for name, kind in _METHODS.items())
        )
        assert self.library.sqlite3_vfs_register(c.byref(self._vfs), 1) == 0
        return self

    def __exit__(self, *_: object) -> None:
        """All connections that were opened meanwhile must be closed by now."""
        self.library.sqlite3_vfs_unregister(c.byref(self._vfs))
        self.library.sqlite3_vfs_register(self._real, 1)

    def acknowledge(self, step: int) -> None:
        self.events.append(Event("ack", offset=step))

    def _open(self, _vfs: int, name: int, file: int, flags: int, out_flags: int) -> int:
        real = file + c.sizeof(_File)
        result = self._real.contents.xOpen(
            c.addressof(self._real.contents), name, real, flags, out_flags
        )
        shim = _File.from_address(file)
        if _File.from_address(real).pMethods:
            shim.pMethods = c.pointer(self._methods)
        path = c.string_at(name).decode() if name else "temporary"
        self._names[file] = Path(path).name
        return result

    def _delete(self, _vfs: int, name: bytes, sync_folder: int) -> int:
        file = Path(name.decode()).name
        self.events.append(Event("delete", file))
        if sync_folder:
            self.events.append(Event("sync", file))
        return self._real.contents.xDelete(c.addressof(self._real.contents), name, sync_folder)

    def _passing(self, name: str):
        def method(file: int, *arguments: int) -> int:
            self._note(name, self._names[file], *arguments)
            real = file + c.sizeof(_File)
            return getattr(_File.from_address(real).pMethods.contents, name)(real, *arguments)

        return method

    def _note(self, name: str, file: str, *arguments: int) -> None:
        if name == "xWrite":
            self.events.append(
                Event("write", file, arguments[2], c.string_at(arguments[0], arguments[1]))
            )
        elif name == "xTruncate":
            self.events.append(Event("truncate", file, arguments[0]))
        elif name == "xSync":
            self.events.append(Event("sync", file))
