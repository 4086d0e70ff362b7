"""What a process inherits, put right before a library trips over it. A whole run under such an environment is
tests/e2e/test_inherited_environment.py's matter."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from megatron_ar3po.platform.host_limits import find_missing_shared_memory
from megatron_ar3po.platform.process_environment import (
    MAX_TMPDIR_BYTES,
    can_write,
    mend_environment,
    private_folder,
)

NOWHERE = "/proc/no/folder"  # nobody may write there, root included
HOME = str(Path.home())


@pytest.fixture
def short() -> Iterator[Path]:
    """In place of /tmp, and short itself."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_where_nothing_is_amiss_nothing_changes():
    environment = {"HOME": HOME, "TMPDIR": "/tmp", "PATH": "/usr/bin"}
    assert mend_environment(environment) == []
    assert environment == {"HOME": HOME, "TMPDIR": "/tmp", "PATH": "/usr/bin"}


def test_the_longest_path_of_a_socket_fits_below_the_longest_folder_that_is_kept(tmp_path):
    """40 bytes of folder and 56 of a server's own make 96; a socket's path has at most 107."""
    below = "/ar3po_server_12345678/torch-shm-dir-123456/manager.sock"
    assert MAX_TMPDIR_BYTES + len(below) == 40 + 56
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(FileNotFoundError):
        listener.bind("/" + "x" * (MAX_TMPDIR_BYTES - 1) + below)  # "AF_UNIX path too long" else


@pytest.mark.parametrize("name", ["x" * 30, "ü" * 14], ids=["letters", "bytes"])
def test_a_long_tmpdir_gives_way_to_a_short_private_folder(short, name):
    """Below the 17 bytes of /tmp/tmp12345678/ 30 letters make 47; 14 letters of two bytes make 31, but 45 bytes."""
    long = short / name
    long.mkdir()
    environment = {"HOME": HOME, "TMPDIR": str(long)}
    (note,) = mend_environment(environment, short_folders=[str(short)])
    assert environment["TMPDIR"] == str(short / f"ar3po-{os.getuid()}")
    assert f"TMPDIR={long} has more than 40 bytes" in note and environment["TMPDIR"] in note
    assert Path(environment["TMPDIR"]).stat().st_mode & 0o777 == 0o700
    assert mend_environment({"HOME": HOME, "TMPDIR": str(long)}, short_folders=[str(short)])[0] == (
        note
    ), "the same folder each time: nothing piles up"


def test_a_tmpdir_that_cannot_be_written_gives_way_too(short):
    environment = {"HOME": HOME, "TMPDIR": NOWHERE}
    (note,) = mend_environment(environment, short_folders=[str(short)])
    assert environment["TMPDIR"] == str(short)
    assert f"TMPDIR={NOWHERE} is no folder that can be written" in note


def test_without_any_folder_for_temporary_files_nothing_starts():
    with pytest.raises(ValueError, match=r"none of /proc can be written, and TMPDIR=.* Set TMPDIR"):
        mend_environment({"HOME": HOME, "TMPDIR": NOWHERE}, short_folders=["/proc"])


def test_a_private_folder_that_somebody_else_made_is_not_used(short, tmp_path):
    name = f"ar3po-{os.getuid()}"
    (short / name).symlink_to(tmp_path)
    found = private_folder(short)
    assert found.parent == short and found.name != name
    (short / name).unlink()
    (short / name).mkdir()
    (short / name).chmod(0o777)
    assert private_folder(short).name != name
    (short / name).chmod(0o700)
    assert private_folder(short).name == name


@pytest.mark.parametrize(
    ("home", "said"),
    [
        ({"HOME": "/no/such/home"}, "HOME=/no/such/home is no folder"),
        ({"HOME": "/proc"}, "HOME=/proc cannot be written"),
        ({"HOME": HOME, "XDG_CACHE_HOME": NOWHERE}, f"XDG_CACHE_HOME={NOWHERE} cannot be written"),
    ],
)
def test_caches_go_where_they_can_be_written_when_the_home_takes_none(home, said):
    environment = {**home, "TRITON_HOME": "/users/own"}
    (note,) = mend_environment(environment)
    assert said in note
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "SGLANG_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert can_write(Path(environment[name]).parent), name
    assert environment["HOME"] == home["HOME"], "`~` of a user's options stays what it is"
    assert environment["TRITON_HOME"] == "/users/own"


def test_a_cache_folder_of_another_user_in_a_home_that_can_be_written_gives_way(tmp_path):
    """As after `sudo pip install`. A link to where nobody may write stands for it: root may write anywhere else."""
    (tmp_path / ".cache").symlink_to("/proc")
    environment = {"HOME": str(tmp_path)}
    (note,) = mend_environment(environment)
    assert f"{tmp_path}/.cache cannot be written: caches of libraries go to" in note
    assert can_write(Path(environment["XDG_CACHE_HOME"]))
    own = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "mine")}
    assert mend_environment(dict(own)) == []


def test_an_unset_home_is_the_one_that_the_system_knows():
    environment = {"TMPDIR": "/tmp"}
    assert mend_environment(environment) == []
    assert environment["HOME"] == os.path.expanduser("~root")


@pytest.mark.skipif(os.getuid() != 0, reason="another user's process is root's to start")
def test_a_user_without_a_name_and_a_home_gets_both():
    """As with `docker run --user 12345`; getpass.getuser() raises KeyError there, and Path.home() RuntimeError."""
    program = """
import getpass, os, sys
from pathlib import Path
from megatron_ar3po.platform.process_environment import can_write, mend_environment
os.setuid(12345)
for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
os.environ["TMPDIR"] = sys.argv[1]
print(*mend_environment(os.environ))
print(getpass.getuser(), can_write(Path.home()))
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        words = [sys.executable, "-c", program, folder]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    said, found = done.stdout.splitlines()
    assert "HOME is not set, and this user has none" in said
    assert found == "uid12345 True"


def test_behind_a_proxy_this_node_is_reached_directly():
    environment = {"HOME": HOME, "HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "intranet.example"}
    assert mend_environment(environment) == []
    hosts = environment["no_proxy"].split(",")
    assert environment["NO_PROXY"] == environment["no_proxy"]
    assert hosts[:4] == ["intranet.example", "localhost", "127.0.0.1", "::1"]
    own = {a.address for found in psutil.net_if_addrs().values() for a in found if a.family == 2}
    assert own <= set(hosts)
    before = dict(environment)
    mend_environment(environment)
    assert environment == before, "a child of a child adds nothing"


def test_without_a_proxy_no_variable_is_added():
    environment = {"HOME": HOME, "no_proxy": "a"}
    mend_environment(environment)
    assert environment == {"HOME": HOME, "no_proxy": "a"}


def run_limited(shell: str, program: str) -> str:
    words = ["bash", "-c", f'{shell}; exec "$@"', "_", sys.executable, "-c", program]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


def test_the_soft_limit_on_open_files_goes_up_to_the_hard_one():
    program = """
import resource
from megatron_ar3po.platform.process_environment import prepare_process
prepare_process()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    assert run_limited("ulimit -S -n 64; ulimit -H -n 1024", program) == "(1024, 1024)"


def test_too_few_open_files_are_one_sentence():
    program = """
from megatron_ar3po.platform.host_limits import check_open_files
try:
    check_open_files(100)
except ValueError as error:
    print(error)
"""
    said = run_limited("ulimit -n 291", program)
    assert said.startswith(
        "a process may have 291 files open here (ulimit -n), but a run with "
        "servers.max_concurrent_requests=100 needs 292"
    )
    assert said.endswith(" Or lower servers.max_concurrent_requests.")
    assert run_limited("ulimit -n 292", program) == ""


def test_connections_leave_room_for_other_files():
    program = """
from megatron_ar3po.platform.host_limits import check_open_files, connection_room
check_open_files(0)
print(connection_room())
"""
    assert run_limited("ulimit -n 256", program) == "64"


def test_shared_memory_that_is_too_small_is_told_before_it_is_written(tmp_path):
    assert find_missing_shared_memory(1, str(tmp_path)) == ""
    assert "MiB free" in find_missing_shared_memory(1 << 60, str(tmp_path))
    assert find_missing_shared_memory(1, NOWHERE) == f"{NOWHERE} is no folder here"
