"""`manifest.json`: what makes a folder of files one checkpoint. Each file's size and checksum, and which checkpoint
it went on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_ar3po.file_digests import FileDigest, digest_file, explain_damage, seal, unseal
from megatron_ar3po.run.durable import write_durably

NAME = "manifest.json"
_FORMAT = 1


class DamagedCheckpointError(ValueError):
    """The message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    parent: str  # the name of the checkpoint that the run went on from; "" for the first of a run
    files: Mapping[str, FileDigest]  # by path under the checkpoint's folder


def complete_digests(folder: Path, known: Mapping[str, FileDigest]) -> dict[str, FileDigest]:
    """Of all files under `folder` but the manifest itself: `known` ones as they were summed up while they were written,
    also where this node does not see them yet (a network file system's list of a folder may be old), the others (small
    ones) read now."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME)
    digests = dict(known)
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if name not in digests:
            digests[name] = digest_file(path)
    return digests


def write_manifest(folder: Path, manifest: Manifest) -> None:
    content = {
        "format": _FORMAT,
        "parent": manifest.parent,
        "files": {name: list(digest) for name, digest in sorted(manifest.files.items())},
    }
    write_durably(folder / NAME, json.dumps(seal(content), indent=1))


def read_manifest(folder: Path) -> Manifest | None:
    """None for a checkpoint of a version that wrote none. Raises `DamagedCheckpointError`."""
    path = folder / NAME
    try:
        content = unseal(json.loads(path.read_text(encoding="utf-8")))
        files = {str(n): FileDigest(int(b), str(x)) for n, (b, x) in content["files"].items()}
        return Manifest(parent=str(content["parent"]), files=files)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedCheckpointError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path} is damaged ({error})") from error


def find_damage(folder: Path, *, part: int = 0, num_parts: int = 1) -> str:
    """The first file of the checkpoint that is not what was written, as a sentence; "" if there is none. Every file is
    looked for; of those that are read, this takes each `num_parts`-th, from `part` on."""
    try:
        manifest = read_manifest(folder)
    except DamagedCheckpointError as error:
        return str(error)
    if manifest is None:
        return _find_damage_without_manifest(folder)
    for number, (name, written) in enumerate(sorted(manifest.files.items())):
        is_mine = number % num_parts == part
        if damage := explain_damage(folder / name, written, whole=is_mine):
            return damage
    return ""


def _find_damage_without_manifest(folder: Path) -> str:
    """Of a version that wrote no manifest: what can be told without one."""
    of_model = ["model/metadata.json", "model/.metadata", "model/common.pt"]
    has_model = (folder / "model").is_dir() and any((folder / "model").iterdir())
    for name in ["state.json", *(of_model if has_model else [])]:
        if not (folder / name).is_file() or not (folder / name).stat().st_size:
            return f"{folder / name} is missing or empty"
    return ""
