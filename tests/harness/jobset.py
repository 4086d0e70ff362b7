"""examples/kubernetes/jobset.yaml, read as the nodes of a cluster would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples/kubernetes/jobset.yaml"


def load_jobset() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def job_of(jobset: dict[str, Any]) -> dict[str, Any]:
    """The spec of its one job."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(jobset: dict[str, Any]) -> dict[str, Any]:
    (container,) = job_of(jobset)["template"]["spec"]["containers"]
    return container


def environment_of(container: dict[str, Any], index: int) -> dict[str, str]:
    """What a pod with this completion index gets."""
    given = {}
    for variable in container["env"]:
        if "valueFrom" in variable:
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
            given[variable["name"]] = str(index)
        else:
            given[variable["name"]] = variable["value"]
    return given
