"""The CPU target of the Dockerfile, built for real without a registry: buildah in a chroot, on a base that debootstrap
makes from Debian's mirror in the place of python:3.11-slim-bookworm; then lint, the unit tests and two steps of the
example inside it. Needs root, about 12 GB of disk and a network. Not exercised: the GPU target, another engine, and the
image's own command, `make test`, at its full length.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.trainer_runs import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7200)]

PACKAGES = ("buildah", "debootstrap", "ca-certificates")
BASE_PACKAGES = "ca-certificates,python3,python3-venv,python3-dev"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Buildah:
    """buildah with a storage of its own, so that nothing is left behind."""

    def __init__(self, folder: Path) -> None:
        self._options = ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        self._options += ["--storage-driver", "overlay"]

    def __call__(self, *words: str, timeout_s: float = 600) -> str:
        done = subprocess.run(
            ["buildah", *self._options, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()


def settings_of_pip() -> dict[str, str]:
    """Where this machine's pip finds packages, the build's pip must look as well."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    found = {}
    for key, value in re.findall(r"^[\w:]*\.([\w-]+)=(.*)$", listed.stdout, re.MULTILINE):
        if key in ("index-url", "extra-index-url", "find-links", "cert"):
            found[f"PIP_{key.upper().replace('-', '_')}"] = ast.literal_eval(value)
    return found


@pytest.fixture(scope="module")
def buildah(tmp_path_factory) -> Iterator[Buildah]:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("building an image in a chroot needs root and Debian's packages")
    options = ["-y", "-q", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    subprocess.run(["apt-get", "install", *options, *PACKAGES], check=True, timeout=600)
    folder = tmp_path_factory.mktemp("image")
    buildah = Buildah(folder)
    yield buildah
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")
    # buildah binds its storage onto itself and leaves that mount behind
    subprocess.run(["umount", str(folder / "storage" / "overlay")], check=False, timeout=60)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def base(buildah, tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("base")
    command = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", "bookworm"]
    subprocess.run([*command, str(root)], check=True, timeout=1200, capture_output=True)
    shutil.copy(CERTIFICATES, root / str(CERTIFICATES).lstrip("/"))
    container = buildah("from", "scratch")
    subprocess.run(["cp", "-a", f"{root}/.", buildah("mount", container)], check=True, timeout=300)
    buildah("umount", container)
    for name, value in settings_of_pip().items():
        buildah("config", "--env", f"{name}={value}", container)
    buildah("commit", container, "localhost/ar3po-base", timeout_s=900)
    shutil.rmtree(root)
    return "localhost/ar3po-base"


@pytest.fixture(scope="module")
def container(buildah, base) -> str:
    tag = "localhost/megatron-ar3po:cpu"
    words = [
        "bud",
        "--isolation=chroot",
        "--format=docker",
        "--pull-never",
        "--target=cpu",
        "-t",
        tag,
    ]
    index = settings_of_pip().get("PIP_EXTRA_INDEX_URL")
    arguments = [f"--build-arg=CPU_BASE_IMAGE={base}"]
    arguments += [f"--build-arg=PIP_EXTRA_INDEX_URL={index}"] if index else []
    buildah(*words, *volumes(), *arguments, str(ROOT), timeout_s=5400)
    return buildah("from", "--pull-never", tag)


def volumes() -> list[str]:
    text = " ".join(settings_of_pip().values())
    folders = {
        Path("/", *Path(p).parts[1:3]) for p in re.findall(r"(?:file://|(?<!\S))(/[^\s:]+)", text)
    }
    return [
        f"--volume={p}:{p}:ro"
        for p in sorted(folders)
        if p.is_dir() and p != CERTIFICATES.parents[1]
    ]


def test_the_image_holds_the_code_and_nothing_that_was_made_or_is_secret(buildah, container):
    found = buildah("run", "--isolation=chroot", container, "--", "ls", "-A").split()
    assert {"Makefile", "megatron_ar3po", "tests", "launch_slurm", ".venv"} <= set(found)
    assert not {".git", "runs", ".cache"} & set(found)
    version = buildah("run", "--isolation=chroot", container, "--", "ar3po", "--help")
    assert "ar3po train" in version


@pytest.mark.parametrize(
    "command",
    [["make", "lint"], ["make", "train", "ARGS=run.num_steps=2"], ["make", "unit"]],
    ids=["lint", "train", "unit"],
)
def test_the_image_does_its_work(buildah, container, command):
    """`make` finds the environment that the image's build has set up, and does not make it again."""
    said = buildah(
        "run", "--isolation=chroot", *volumes(), container, "--", *command, timeout_s=3600
    )
    assert "[setup" not in said
