"""The files of a data set: in a local folder, or from the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron_ar3po.preparation.catalogue import DataSet, HubFiles

_ENDINGS = (".jsonl", ".parquet", ".json")
_LIMIT_S = "30"  # of one connection to the hub, and of its silence


@dataclass(frozen=True, slots=True)
class FetchedFile:
    path: Path
    name: str  # what a row's origin calls it: without the folder of this machine


def find_local(data_set: DataSet, folder: Path) -> list[FetchedFile]:
    """Its file in a folder, or its files in a folder of its name. Raises ValueError with what was looked for."""
    if not folder.is_dir():
        raise ValueError(f"--from {folder} is no folder; name the one that holds the data sets.")
    for name in (*data_set.local, data_set.name):
        for ending in _ENDINGS:
            if (path := folder / f"{name}{ending}").is_file():
                return [FetchedFile(path, path.name)]
        inner = sorted(p for p in (folder / name).glob("*") if p.suffix in _ENDINGS)
        if inner:
            return [FetchedFile(path, f"{name}/{path.name}") for path in inner]
    names = " or ".join(dict.fromkeys((*data_set.local, data_set.name)))
    raise ValueError(
        f"--from {folder} holds no {data_set.name}: no file {names} with the ending {', '.join(_ENDINGS)}, and no "
        "folder of this name with such files; put it there, or leave out --from and it is fetched from the hub."
    )


def fetch_from_hub(
    data_set: DataSet, download: Callable[..., str] | None = None
) -> list[FetchedFile]:
    """Its files at the pinned commit, kept in Hugging Face's cache. `download` is called as the hub's
    `snapshot_download`. Raises ValueError where they cannot be had."""
    hub = data_set.hub
    if hub is None:
        raise ValueError(
            f"{data_set.name} is not fetched from the hub; name the folder that holds its file by --from FOLDER."
        )
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", _LIMIT_S)
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", _LIMIT_S)
    if download is None:
        from huggingface_hub import snapshot_download  # slow to import, and it reads the two above

        download = snapshot_download
    try:
        folder = Path(
            download(
                hub.repo,
                repo_type="dataset",
                revision=hub.revision,
                allow_patterns=list(hub.files),
                etag_timeout=float(_LIMIT_S),
            )
        )
    except Exception as error:  # of several libraries; whatever it was, the files are not here
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{data_set.name} could not be fetched from https://huggingface.co/datasets/{hub.repo} ({reason[:300]}); "
            "mend the connection, or fetch it elsewhere and name its folder by --from FOLDER."
        ) from error
    missing = [name for name in hub.files if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{hub.repo} has no {', '.join(missing)} at {hub.revision}: the repository was changed; name a folder that "
            "holds the set by --from FOLDER."
        )
    return [FetchedFile(folder / name, _origin_of(hub, folder, name)) for name in hub.files]


def _origin_of(hub: HubFiles, folder: Path, name: str) -> str:
    """A snapshot's folder is called by its commit.

    >>> hub = HubFiles(repo="openai/gsm8k", files=("main/test.parquet",))
    >>> _origin_of(hub, Path("snapshots/740312add88f781978c0658806c59bc2815b9866"), "main/test.parquet")
    'openai/gsm8k@740312add88f/main/test.parquet'
    """
    return f"{hub.repo}@{folder.name[:12]}/{name}"
