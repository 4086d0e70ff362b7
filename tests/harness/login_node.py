"""An SSH server of a test's own, on loopback: the login node of the test's Slurm cluster."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_LIMIT_S = 20


@dataclass(frozen=True)
class LoginNode:
    address: str  # USER@HOST:PORT
    key: Path


@contextmanager
def serve_ssh(folder: Path, environment: Mapping[str, str]) -> Iterator[LoginNode]:
    """Skips the test where there is no OpenSSH server or no rsync. `environment` is what a session gets; keys are made
    for this one server."""
    server = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
    if server is None or shutil.which("rsync") is None or shutil.which("ssh") is None:
        pytest.skip("needs openssh-server, openssh-client and rsync")
    Path("/run/sshd").mkdir(exist_ok=True)  # where the server parts with its rights
    for name in ("host_key", "key"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(make, check=True, timeout=_LIMIT_S)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = folder / "sshd_config"
    variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
    settings.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/key.pub\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f"UsePAM no\nSetEnv {variables}\nSubsystem sftp internal-sftp\n"
    )
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([server, "-D", "-e", "-f", str(settings)], stderr=log)
    try:
        _wait_for_port(port, folder / "sshd.log")
        yield LoginNode(f"{getpass.getuser()}@127.0.0.1:{port}", folder / "key")
    finally:
        process.terminate()
        process.wait(_LIMIT_S)


def _wait_for_port(port: int, log: Path) -> None:
    end = time.monotonic() + _LIMIT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
