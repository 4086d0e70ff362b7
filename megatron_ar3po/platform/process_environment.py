"""What a process inherits and a library would trip over long after the start, mended before anything heavy is
imported.

`prepare_process` writes into the process's own environment, so children have it too. It changes nothing where nothing
is amiss. docs/environment.md lists all that this project reads from the environment.

- temporary folder: sockets lie in it, and the path of a socket has at most 107 bytes;
- home: caches of torch, Triton, SGLang and others lie in it, and either may be missing, read-only or another user's;
- user name: torch asks for one, and a container's user may have none;
- proxies: what runs on this node is reached directly;
- open files: the soft limit goes up to the hard one;
- output: a character that it cannot show is no reason to end.
"""

from __future__ import annotations

import getpass
import io
import os
import pwd
import resource
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path

# Longest below a temporary folder: ar3po_server_XXXXXXXX/torch-shm-dir-XXXXXX/manager.sock, 56 bytes with the slash.
MAX_TMPDIR_BYTES = 40
MAX_OPEN_FILES = 65536
_SHORT_FOLDERS = ("/tmp", "/var/tmp")
_TMPDIR_VARIABLES = ("TMPDIR", "TEMP", "TMP")  # in Python's order

# Under a cache folder, where the home takes none: what each library calls its own.
_CACHES = {
    "XDG_CACHE_HOME": "",  # Hugging Face, torch.hub, ...
    "MPLCONFIGDIR": "matplotlib",
    "TRITON_HOME": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "SGLANG_CACHE_DIR": "sglang",  # SGLang puts those of FlashInfer, TileLang and CUDA under it
    "TVM_FFI_CACHE_DIR": "tvm-ffi",
    "LEPTON_CACHE_DIR": "lepton",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def prepare_process() -> None:
    """Before the first heavy import. Says on standard error where files go to another place than they were to. Raises
    ValueError for what cannot be mended."""
    raise_open_files()
    _show_any_character()
    for note in mend_environment(os.environ):
        print(f"ar3po: {note}", file=sys.stderr)


def mend_environment(
    environment: MutableMapping[str, str], *, short_folders: Sequence[str] = _SHORT_FOLDERS
) -> list[str]:
    """Returns a sentence for what goes to another place. `short_folders`: where temporary files may go instead of a
    folder that will not do."""
    notes = list(_shorten_tmpdir(environment, short_folders))
    notes += _move_caches(environment)
    _name_the_user(environment)
    _bypass_proxies(environment)
    return notes


def private_folder(parent: str | Path) -> Path:
    """A folder of this user's own under `parent`, the same one each time. Another one where that name is taken."""
    folder = Path(parent) / f"ar3po-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if is_ours and not found.st_mode & 0o077 and can_write(folder):
            return folder
    except FileExistsError:  # a file
        pass
    return Path(tempfile.mkdtemp(prefix="ar3po-", dir=parent))


def can_write(folder: str | Path) -> bool:
    """Tried, since neither rights nor mounts tell all."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _shorten_tmpdir(
    environment: MutableMapping[str, str], short_folders: Sequence[str]
) -> Iterator[str]:
    stated = {n: environment[n] for n in _TMPDIR_VARIABLES if environment.get(n)}
    usable = next((name for name, folder in stated.items() if can_write(folder)), "")
    if usable and len(os.fsencode(os.path.abspath(stated[usable]))) <= MAX_TMPDIR_BYTES:
        _set_tmpdir(environment, os.path.abspath(stated[usable]))
        return
    found = ", ".join(f"{name}={folder}" for name, folder in stated.items())
    short = next((folder for folder in short_folders if can_write(folder)), None)
    if short is None:
        raise ValueError(
            f"no folder for temporary files: none of {', '.join(short_folders)} can be written"
            f"{f', and {found} is too long, missing, read-only or full' if found else ''}. Set TMPDIR to a folder that "
            f"can be written and whose path has at most {MAX_TMPDIR_BYTES} bytes, since sockets lie in it."
        )
    if not stated and short == short_folders[0]:
        return  # as every library would have it
    chosen = str(private_folder(short)) if usable else short
    _set_tmpdir(environment, chosen)
    if usable:
        yield (
            f"{usable}={stated[usable]} has more than {MAX_TMPDIR_BYTES} bytes, which leaves no room for the paths of "
            f"sockets: temporary files go to {chosen}."
        )
    else:
        amiss = (
            f"{found} is no folder that can be written"
            if found
            else f"{short_folders[0]} cannot be written"
        )
        yield f"{amiss}: temporary files go to {chosen}."


def _set_tmpdir(environment: MutableMapping[str, str], folder: str) -> None:
    if environment.get("TMPDIR") != folder:
        environment["TMPDIR"] = folder
        tempfile.tempdir = None  # Python looks again


def _move_caches(environment: MutableMapping[str, str]) -> Iterator[str]:
    home = environment.get("HOME") or _registered_home()
    shared = environment.get("XDG_CACHE_HOME")
    if shared and not can_write(_nearest_folder(shared)):
        amiss = f"XDG_CACHE_HOME={shared} cannot be written"
        del environment["XDG_CACHE_HOME"]
    elif not home:
        amiss = "HOME is not set, and this user has none"
    elif not os.path.isdir(home):
        amiss = f"HOME={home} is no folder"
    elif not can_write(home):
        amiss = f"HOME={home} cannot be written"
    elif not shared and not can_write(_nearest_folder(cache := os.path.join(home, ".cache"))):
        amiss = f"{cache} cannot be written"  # another user has made it, as with sudo
    else:
        environment["HOME"] = home
        return
    folder = private_folder(tempfile.gettempdir()) / "cache"
    folder.mkdir(exist_ok=True)
    environment.setdefault("HOME", home or str(folder))
    for name, child in _CACHES.items():
        environment.setdefault(name, str(folder / child))
    yield f"{amiss}: caches of libraries go to {folder}."


def _registered_home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container's user by number alone
        return ""


def _nearest_folder(path: str) -> str:
    """The one in which `path` would be made, or itself."""
    absolute = Path(path).absolute()
    return str(next(p for p in (absolute, *absolute.parents) if p.is_dir()))


def _name_the_user(environment: MutableMapping[str, str]) -> None:
    try:
        getpass.getuser()
    except (KeyError, OSError):
        environment["LOGNAME"] = f"uid{os.getuid()}"


def _bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Names and numbers are compared as text: nothing is resolved."""
    if not any(n.lower() in ("http_proxy", "https_proxy", "all_proxy") for n in environment):
        return
    stated = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for value in stated for host in value.split(",") if host.strip()]
    everything = ",".join(dict.fromkeys([*hosts, *_LOOPBACK, *_own_addresses()]))
    environment["no_proxy"] = environment["NO_PROXY"] = everything


def _own_addresses() -> list[str]:
    import psutil

    found = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    numeric = [a.address for a in found if a.family in (socket.AF_INET, socket.AF_INET6)]
    return [address.partition("%")[0] for address in numeric]


def raise_open_files() -> None:
    """The soft limit to the hard one, or as far as anybody needs it: every request in flight is a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _show_any_character() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
