"""What a user installs: the wheel, its command and its extras."""

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """Built from a copy: setuptools leaves a build/ folder, whose stale modules would go into the next wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    caches = shutil.ignore_patterns("__pycache__")
    for name in ("megatron_ar3po", "requirements"):
        shutil.copytree(ROOT / name, source / name, ignore=caches)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    (path,) = folder.glob("megatron_ar3po-*.whl")
    return zipfile.ZipFile(path)


def read(wheel: zipfile.ZipFile, name: str) -> str:
    (path,) = [n for n in wheel.namelist() if n.endswith(f".dist-info/{name}")]
    return wheel.read(path).decode()


def test_it_carries_the_command(wheel):
    assert "ar3po = megatron_ar3po.cli:main" in read(wheel, "entry_points.txt")


def test_it_has_the_extras_and_the_pins(wheel):
    metadata = email.message_from_string(read(wheel, "METADATA"))
    extras = {"cpu", "gpu", "launch", "wandb", "mlflow", "dev"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    required = metadata.get_all("Requires-Dist", [])
    assert any(line.startswith("megatron-core==0.16.1") for line in required)
    assert any(line.startswith("sglang==") and 'extra == "gpu"' in line for line in required)
    assert any(line.startswith("nemo-run==") and 'extra == "launch"' in line for line in required)


def test_every_module_of_the_package_is_in_it_and_nothing_else(wheel):
    modules = {n for n in wheel.namelist() if n.endswith(".py")}
    there = {str(p.relative_to(ROOT)) for p in (ROOT / "megatron_ar3po").rglob("*.py")}
    assert modules == there


def test_it_carries_what_a_report_is_made_of(wheel):
    there = {n for n in wheel.namelist() if "/page_files/" in n}
    assert there == {f"megatron_ar3po/reporting/page_files/page.{kind}" for kind in ("css", "js")}


def test_it_carries_its_licence_in_full(wheel):
    assert email.message_from_string(read(wheel, "METADATA"))["License"] == "Apache-2.0"
    text = read(wheel, "licenses/LICENSE")
    assert text == (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
