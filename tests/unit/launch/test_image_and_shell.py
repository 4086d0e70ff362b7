"""What can be held true of scripts and image without a container engine: linters, and that the Dockerfile's files,
versions and checks are there. Not exercised: that the GPU image builds.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_ar3po.config.load import load_config

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
sys.path.insert(0, str(ROOT / "requirements"))

import pins  # noqa: E402


def list_tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.split()


def test_every_shell_script_passes_shellcheck():
    scripts = [*list_tracked("*.sh"), *list_tracked(".ci/run", "tests/slurm/sacct")]
    done = subprocess.run(
        [BIN / "shellcheck", "-x", *scripts], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(scripts) >= 4


def test_every_shell_script_can_be_run_by_its_name():
    scripts = [*list_tracked("*.sh"), *list_tracked(".ci/run", "tests/slurm/sacct")]
    assert "launch_slurm/ar3po_32b.sh" in scripts
    assert [script for script in scripts if not os.access(ROOT / script, os.X_OK)] == []


def test_the_dockerfile_passes_hadolint():
    done = subprocess.run(
        [BIN / "hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_base_image_carries_the_pinned_sglang():
    tag = re.search(r"^ARG BASE_IMAGE=lmsysorg/sglang:v(\S+)$", DOCKERFILE, re.MULTILINE)
    assert tag is not None
    assert tag.group(1) == pins.version("sglang", "gpu") == pins.version("sglang", "nodeps")


def test_everything_the_dockerfile_copies_exists():
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    assert copied
    for source in [s for words in copied for s in words]:
        assert (ROOT / source).exists(), source


def step(start: str) -> str:
    """The shell commands of the first RUN behind the line that begins so."""
    return DOCKERFILE.partition(f"\n{start}")[2].partition("RUN ")[2].partition("\n\n")[0]


def run_step(start: str, python: str, folder: Path, **variables: str) -> tuple[int, str]:
    """(exit code, output) of it, with a python3 that does what `python` says, in `folder`."""
    (folder / "bin").mkdir(exist_ok=True)
    fake = folder / "bin/python3"
    fake.write_text(f"#!/bin/bash\n{python}\n")
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", step(start)],
        cwd=folder,
        env={"PATH": f"{folder / 'bin'}:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_the_base_brought_is_held_while_more_is_installed(tmp_path):
    there = "torch==2.14.1+cu130\nnvidia-cublas==13.1.0\nsglang==0.5.23\nnvidia-x @ file:///x"
    code, said = run_step("# What the base brought stays", f"echo '{there}'", tmp_path)
    assert code == 0, said
    held = (tmp_path / "base_packages.txt").read_text().split()
    assert held == ["torch==2.14.1+cu130", "nvidia-cublas==13.1.0"]
    installs = re.findall(r"pip install (?!--no-deps).*", DOCKERFILE.partition("AS cpu")[0])
    assert len(installs) == 3
    assert all("-c base_packages.txt" in line for line in installs)


def test_a_base_whose_torch_has_no_version_is_refused(tmp_path):
    code, _ = run_step("# What the base brought stays", "echo 'torch @ file:///x'", tmp_path)
    assert code != 0


@pytest.mark.parametrize("with_apex", ["0", "1"])
def test_apex_is_compiled_only_where_it_is_asked_for(with_apex, tmp_path):
    variables = {"WITH_APEX": with_apex, "CUDA_ARCHS": "90;100", "MAX_JOBS": "4"}
    said = 'echo "$TORCH_CUDA_ARCH_LIST: $*"'
    code, output = run_step("# Optional (--build-arg WITH_APEX=1)", said, tmp_path, **variables)
    assert code == 0
    expected = "9.0;10.0: -m pip install --no-build-isolation -c base_packages.txt "
    assert output == (f"{expected}-r requirements/apex.txt\n" if with_apex == "1" else "")
    assert re.search(r"^ARG WITH_APEX=0$", DOCKERFILE, re.MULTILINE)
    assert not any("apex" in line for line in pins.requirements("gpu_build"))


def test_the_architectures_are_those_on_which_the_images_attention_runs():
    """Packed sequences on A100 (80) need flash-attention, which is in no list of requirements."""
    archs = re.findall(r'^ARG CUDA_ARCHS="(.*)"$', DOCKERFILE, re.MULTILINE)
    assert archs == ["90;100"]
    assert not any("flash" in line for line in pins.requirements("gpu_build"))


def test_the_gpu_image_imports_what_was_compiled_before_its_build_ends():
    gpu = DOCKERFILE.partition(" AS gpu\n")[2].partition("\nFROM ")[0]
    *_, last, user = re.findall(r"^RUN (.+?)(?<!\\)$", gpu, re.MULTILINE | re.DOTALL)
    assert 'python3 -c "import transformer_engine.pytorch, sglang, megatron.core"' in last
    assert user.startswith("useradd")
    assert gpu.rindex("COPY ") < gpu.index(last)


def test_the_gpu_image_has_what_its_tests_and_proofs_are_run_with():
    gpu = DOCKERFILE.partition(" AS gpu\n")[2].partition("\nFROM ")[0]
    copied = {
        word for line in re.findall(r"^COPY (.+)$", gpu, re.MULTILINE) for word in line.split()
    }
    assert copied >= {"Makefile", "pyproject.toml", "tests", "tools", "requirements"}
    assert "-r requirements/test.txt" in gpu
    imported = {line.partition("==")[0] for line in pins.requirements("test")}
    assert imported >= {"pytest", "pytest-timeout", "hypothesis"}
    for target in ("test-gpu", "prove-gpu"):  # make setup would bring torch's CPU build
        asked = subprocess.run(
            [
                "make",
                "--no-print-directory",
                "--dry-run",
                target,
                "BIN=nowhere/bin",
                "PYTHON=python3",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert asked.stdout.split()[0] == "python3", asked.stdout


@pytest.mark.parametrize(("found", "code"), [("2.14.1", 0), ("2.11.0", 1)])
def test_a_base_image_with_another_torch_is_refused(found, code, tmp_path):
    """The Dockerfile's own check, run with an interpreter that pretends to be the base image's."""
    check = DOCKERFILE.partition("# The base must be")[2].partition("RUN ")[2].partition("\n\n")[0]
    fake = tmp_path / "python3"
    fake.write_text(
        "#!/bin/bash\n"
        f'case "$*" in *pins.py*) exec {sys.executable} "$@" ;;\n'
        f"*torch*) echo {found} ;; *) echo {pins.version('sglang', 'gpu')} ;; esac\n"
    )
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", check],
        cwd=ROOT,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ("BASE_IMAGE holds torch 2.11.0" in done.stderr) == bool(code)


def test_every_pin_of_the_cpu_environment_is_the_one_in_the_lock_file():
    def canonical(line: str) -> str:
        return re.sub(r"[-_.]+", "-", re.sub(r"\[[^]]*\]", "", line)).lower()

    locked = {canonical(line) for line in pins.requirements("lock")}
    for name in ("cpu", "launch", "dev"):
        for line in pins.requirements(name):
            assert canonical(line) in locked, f"{line} of {name}.txt is not in lock.txt"


def test_a_package_that_is_not_pinned_is_refused():
    with pytest.raises(ValueError, match=r"nothing is not pinned in gpu\.txt"):
        pins.version("nothing", "gpu")


@pytest.mark.parametrize("config", sorted((ROOT / "examples").glob("*/model_config.json")), ids=str)
def test_a_models_shape_file_is_beside_a_config_that_names_the_model(config):
    values = json.loads(config.read_text())
    assert values["architectures"][0].endswith("ForCausalLM")
    assert (config.parent / "config.yaml").is_file()
    assert (config.parent / "README.md").is_file()


def test_no_secret_goes_into_an_image():
    """Not by a build argument or a variable, which stay readable in the image, and not by a copied file."""
    named = re.findall(r"^(?:ARG|ENV) +(\w+)|^ +(\w+)=", DOCKERFILE, re.MULTILINE)
    for name in ["".join(pair) for pair in named]:
        assert not re.search("TOKEN|SECRET|PASSWORD|KEY|CREDENTIAL", name, re.IGNORECASE), name
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".git", "**/.env", "**/*.key", "**/*.pem", "runs", ".venv"} <= set(ignored)


@pytest.mark.parametrize("stage", ["gpu", "cpu"])
def test_each_image_has_labels_and_can_run_as_another_user(stage):
    text = DOCKERFILE.partition(f" AS {stage}\n")[2].partition("\nFROM ")[0]
    labels = re.findall(r"org\.opencontainers\.image\.(\w+)", text)
    assert labels == ["title", "description", "version", "revision", "licenses"]
    assert (
        "AR3PO_IMAGE_FOLDER=/opt/megatron_ar3po" in text and "WORKDIR /opt/megatron_ar3po" in text
    )
    assert "AR3PO_IMAGE_COMMIT=${COMMIT}" in text
    assert "ARG RUN_AS=root" in text and "USER ${RUN_AS}" in text


def test_the_images_version_is_the_packages():
    version = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text())
    assert version is not None
    assert set(re.findall(r"^ARG VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)) == {version.group(1)}


def docker_runs() -> list[list[str]]:
    """The words of each `docker run` of docs/containers.md."""
    page = (ROOT / "docs/containers.md").read_text().replace("\\\n", " ")
    return [shlex.split(line) for line in page.splitlines() if line.startswith("docker run ")]


def test_docker_run_has_what_a_run_on_gpus_needs():
    gpu, cpu = docker_runs()
    assert gpu[gpu.index("--gpus") + 1] == "all"
    assert {"--ipc=host", "--network=host", "--init"} <= set(gpu)
    limits = {gpu[n + 1] for n, word in enumerate(gpu) if word == "--ulimit"}
    assert limits == {"memlock=-1", "stack=67108864", "nofile=65536"}
    words = gpu[gpu.index("megatron-ar3po:gpu") + 1 :]
    assert words[:3] == ["python3", "-m", "megatron_ar3po.launch.node"]
    config = load_config([ROOT / words[7]], words[8:])
    mounts = [gpu[n + 1].split(":")[1] for n, word in enumerate(gpu) if word == "-v"]
    for path in (config.model.path, config.data.path, config.evaluation.path, str(config.run.path)):
        assert any(path.startswith(f"{mount}/") for mount in mounts), path
    assert cpu[cpu.index("megatron-ar3po:cpu") + 1 :] == ["make", "train"]


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker command")
def test_docker_knows_every_option_that_the_page_shows():
    known = subprocess.run(
        ["docker", "run", "--help"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    for words in docker_runs():
        image = next(n for n, word in enumerate(words) if word.startswith("megatron-ar3po:"))
        for word in [w.partition("=")[0] for w in words[2:image] if w.startswith("-")]:
            assert re.search(rf"(^|\s){word}(\s|,)", known, re.MULTILINE), word


def test_the_compose_file_builds_a_stage_of_the_dockerfile_and_runs_targets_of_the_makefile():
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(composed["services"]) == {"train", "test", "shell"}
    for name, service in composed["services"].items():
        assert f" AS {service['build']['target']}\n" in DOCKERFILE
        assert set(service["build"]["args"]) <= set(
            re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)
        )
        program, *rest = service["command"]
        assert (program == "make" and set(rest) <= set(targets)) or name == "shell"
        for volume in service.get("volumes", []):
            assert volume.split(":")[1].startswith("/opt/megatron_ar3po/")
