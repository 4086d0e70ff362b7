"""The JobSet of examples/kubernetes against JobSet's schema, and its lines against each other and the program. Not
exercised: an API server, and what its webhooks refuse beyond the schema."""

from __future__ import annotations

import argparse
import copy
import json
import re

import jsonschema
import pytest
from harness.jobset import ROOT, container_of, environment_of, job_of, load_jobset

from megatron_ar3po.config.load import load_config
from megatron_ar3po.launch.arguments import Rendezvous

SCHEMA = json.loads((ROOT / "tests/fixtures/jobset_v1alpha2.schema.json").read_text())
IN_THE_IMAGE = "/opt/megatron_ar3po/"


def problems(jobset) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [error.message for error in validator.iter_errors(jobset)]


def test_the_jobset_is_valid_by_its_schema():
    assert problems(load_jobset()) == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["spec", "failurePolicy", "maxRestart"], 3, "'maxRestart' was unexpected"),
        (["spec", "network", "enableDNSHostnames"], "true", "'true' is not of type 'boolean'"),
        (["spec", "replicatedJobs", 0, "template", "spec", "completions"], "2", "'2' is not of type 'integer'"),
        (["spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "container"], [], "'container' was"),
        (["spec", "replicatedJobs", 0, "replica"], 1, "'replica' was unexpected"),
    ],
)  # fmt: skip
def test_the_schema_refuses_a_field_that_is_misspelt_or_of_another_type(path, value, message):
    jobset = copy.deepcopy(load_jobset())
    inner = jobset
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert any(message in problem for problem in problems(jobset))


def test_the_schema_names_its_source_and_licence():
    comment = SCHEMA["$comment"]
    assert "kubeflow_trainer_api 2.3.0" in comment and "Apache-2.0" in comment


def test_the_nodes_are_counted_alike_everywhere():
    jobset = load_jobset()
    job, container = job_of(jobset), container_of(jobset)
    nodes = int(environment_of(container, 0)["PET_NNODES"])
    assert nodes == job["parallelism"] == job["completions"] == 2
    assert (job["completionMode"], job["backoffLimit"]) == ("Indexed", 0)


def test_each_pod_meets_the_first_one_by_the_name_that_jobset_gives_it():
    """NAME-JOB-REPLICA-INDEX.SUBDOMAIN, where the network enables host names."""
    jobset = load_jobset()
    name, network = jobset["metadata"]["name"], jobset["spec"]["network"]
    job = jobset["spec"]["replicatedJobs"][0]["name"]
    assert network["enableDNSHostnames"] is True
    container = container_of(jobset)
    for index in (0, 1):
        assert Rendezvous.from_environment(environment_of(container, index)) == Rendezvous(
            num_nodes=2, node_rank=index, master_addr=f"{name}-{job}-0-0.{network['subdomain']}", master_port=29400
        )  # fmt: skip


def test_the_containers_words_are_those_of_a_node_and_its_options_load():
    container = container_of(load_jobset())
    assert container["command"] == ["python3", "-m", "megatron_ar3po.launch.node"]
    parser = argparse.ArgumentParser()
    for option in ("--nproc-per-node", "--gpus-per-node", "--stopped-exit-code"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    words = parser.parse_args(container["args"])
    assert words.stopped_exit_code != 0  # a run that was stopped is to be started again
    assert (
        words.nproc_per_node
        == words.gpus_per_node
        == container["resources"]["limits"]["nvidia.com/gpu"]
    )
    file = ROOT / words.config.removeprefix(IN_THE_IMAGE)
    assert words.config.startswith(IN_THE_IMAGE) and file.is_file()
    config = load_config([file], words.overrides)
    assert config.run.resume
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert mounted == ["/shared", "/dev/shm"]
    assert all(
        str(path).startswith("/shared/")
        for path in (config.run.path, config.model.path, config.data.path)
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"PET_NODE_RANK": ""}, r"PET_NODE_RANK=\(unset\).*: PET_NODE_RANK does not say how the nodes meet"),
        ({"PET_NNODES": "1:4"}, r"PET_NNODES does not say how the nodes meet; .*1:4, is not supported"),
        ({"PET_NODE_RANK": "2"}, "PET_NODE_RANK=2 is no node of PET_NNODES=2; count from 0"),
        ({"PET_MASTER_PORT": "http"}, "PET_MASTER_PORT does not say how the nodes meet"),
    ],
)  # fmt: skip
def test_nodes_that_do_not_say_how_they_meet_are_refused(given, message):
    environment = environment_of(container_of(load_jobset()), 0) | given
    with pytest.raises(ValueError, match=message):
        Rendezvous.from_environment(environment)


def test_one_node_needs_no_address_and_slurm_comes_first():
    assert Rendezvous.from_environment({"PET_NNODES": "1"}) == Rendezvous()
    both = {"SLURM_NNODES": "1", "PET_NNODES": "2", "PET_NODE_RANK": "7"}
    assert Rendezvous.from_environment(both) == Rendezvous()


def test_the_image_that_the_example_starts_is_the_dockerfiles():
    assert container_of(load_jobset())["image"].endswith("/megatron-ar3po:gpu")
    assert re.search(r"^WORKDIR /opt/megatron_ar3po$", (ROOT / "Dockerfile").read_text(), re.M)
