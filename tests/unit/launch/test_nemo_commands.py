"""`nemo ar3po train`, by the real command: what it lists, what it would submit, what it refuses. No cluster is asked;
`tests/slurm/test_nemo_run_on_slurm.py` has one."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("nemo_run", reason="NeMo-Run is an extra: pip install 'megatron_ar3po[launch]'")

from harness.nemo_command import ROOT, run_nemo

from megatron_ar3po.config.load import load_config
from megatron_ar3po.launch.nemo_commands import is_own_option


def nodes_words(text: str) -> list[str]:
    """The words of the command that every node runs, behind the module's name."""
    [command] = re.findall(r"-m megatron_ar3po\.launch\.node (.*)", text)
    return shlex.split(command)


def test_nemo_lists_the_recipes_and_the_executors(tmp_path):
    done = run_nemo("ar3po", "train", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("ar3po_32b", "ar3po_7b", "ar3po_llama8b"):
        assert re.search(rf"{name} +megatron_ar3po\.launch\.recipes\.{name} ", done.stdout), name
    for name in ("ar3po_slurm", "ar3po_local"):
        assert f"{name} " in done.stdout
    assert "Couldn't load" not in done.stdout


def test_a_recipe_with_dotted_options_is_planned_for_slurm(tmp_path):
    """Our options reach the nodes as they were typed; `run.seed` is ours, `run.executor` is NeMo-Run's."""
    options = ["actor.learning_rate=2e-6", "run.seed=7", "debug.dump_steps=[1, 2]"]
    options += ["servers.sglang.mem_fraction_static=0.7", "rewards.verifier=last_number"]
    executor = ["=ar3po_slurm", ".account=rl", ".qos=high", ".nodes=2", ".container_image=/i.sqsh"]

    done = run_nemo(
        *("ar3po", "train", "--factory", "ar3po_7b(algorithm=grpo)", *options, "--dryrun", "--yes"),
        *[f"run.executor{word}" for word in executor],
        folder=tmp_path,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    words = nodes_words(done.stdout)
    assert words[-len(options) :] == options
    example = ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml"
    assert words[:5] == [
        f"--workdir={tmp_path}", "--nproc-per-node=8", "--gpus-per-node=8", "--stopped-exit-code=75", str(example),
    ]  # fmt: skip
    config = load_config([example], words[5:])
    assert (config.algorithm.name, config.run.seed, config.run.resume) == ("grpo", 7, True)
    for line in ("account=rl", "qos=high", "nodes=2", "signal=USR1@600", "gpus-per-node=8"):
        assert f"#SBATCH --{line}\n" in done.stdout
    assert f" --container-mounts {tmp_path}:{tmp_path},{ROOT}:{ROOT}," in done.stdout
    assert "--no-container-mount-home" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "gpus", "message"),
    [
        (["actor.tensor_parallel_size=3"], 8, "world size 8 does not fit actor.tensor_parallel_size=3"),
        (["actor.learning_rat=1"], 8, "unknown option actor.learning_rat=1; the nearest known one is"),
        ([], 4, "run.executor.gpus_per_node=4 asks Slurm for other nodes than gpus_per_node=8 is to find"),
    ],
)  # fmt: skip
def test_what_cannot_start_is_refused_before_anything_is_submitted(overrides, gpus, message):
    from megatron_ar3po.launch.executors import slurm_executor
    from megatron_ar3po.launch.nemo_commands import TrainContext, train

    context = TrainContext(name="train")
    context.executor = slurm_executor(account="rl", gpus_per_node=gpus)
    config = str(ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml")
    with pytest.raises(ValueError, match=message):
        train(context, config, overrides)


def test_only_words_of_our_sections_are_ours():
    ours = ["run.seed=1", "run.name=x", "servers.sglang.tp_size=2", "actor.no_such=1"]
    theirs = [
        "run.executor=ar3po_slurm",
        "run.executor.nodes=2",
        "run.plugins=p",
        "run.detach=true",
    ]
    assert [is_own_option(word) for word in ours + theirs] == [True] * 4 + [False] * 4
    assert not is_own_option("config=examples/tiny_sum/config.yaml")
    assert not is_own_option("workdir=/a.b")


def test_each_copy_of_the_code_is_chosen_or_refused_by_what_the_nodes_see(monkeypatch, tmp_path):
    from megatron_ar3po.launch.code_source import choose_code
    from megatron_ar3po.platform.running_code import read_running_code

    example, mine = ROOT / "examples/tiny_sum/config.yaml", tmp_path / "config.yaml"
    here = choose_code("here", example)
    assert here.config == str(example) and here.folders == (str(ROOT),)
    assert here.env_vars["AR3PO_CODE"] == read_running_code().name
    assert here.env_vars["PYTHONPATH"] == f"{ROOT}" + "${PYTHONPATH:+:$PYTHONPATH}"
    assert choose_code("image", mine).folders == (str(tmp_path),)
    there = choose_code("image", example, is_remote=True)
    assert there.config == "/opt/megatron_ar3po/examples/tiny_sum/config.yaml"
    assert there.env_vars == {}
    assert choose_code("files", mine, is_remote=True).config == "/nemo_run/code/config.yaml"
    with pytest.raises(ValueError, match="--code here runs the code in this folder"):
        choose_code("here", example, is_remote=True)
    with pytest.raises(ValueError, match="lies on this machine, which the nodes do not see"):
        choose_code("image", mine, is_remote=True)


def test_the_files_that_are_sent_are_the_package_and_the_config(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # NeMo-Run reads it while it packs
    from megatron_ar3po.launch.code_source import choose_code
    from megatron_ar3po.platform.running_code import read_code, read_running_code

    config, unpacked = tmp_path / "mine/my.yaml", tmp_path / "code"
    for folder in (config.parent, unpacked):
        folder.mkdir()
    config.write_text("run: {name: mine}\n")
    packed = choose_code("files", config).packager.package(Path.cwd(), str(tmp_path), "job")
    with tarfile.open(packed) as archive:
        archive.extractall(unpacked, filter="data")
    assert read_code(unpacked / "megatron_ar3po").digest == read_running_code().digest
    assert (unpacked / "my.yaml").read_text() == "run: {name: mine}\n"


def test_a_login_node_is_a_user_at_a_host_and_maybe_a_port():
    from megatron_ar3po.launch.executors import ssh_tunnel

    plain = ssh_tunnel("me@login", job_dir="/shared")
    assert (plain.user, plain.host, plain.port, plain.identity) == ("me", "login", None, None)
    named = ssh_tunnel("me@login:2222", job_dir="/shared", identity="/key")
    assert (named.host, named.port, named.identity) == ("login", 2222, "/key")
    for wrong in ("login", "me@", "me@login:ssh"):
        with pytest.raises(ValueError, match=f"--ssh {wrong} names no user and host"):
            ssh_tunnel(wrong, job_dir="/shared")


def test_a_snapshot_of_head_is_refused_where_files_differ_from_it(tmp_path, monkeypatch):
    from megatron_ar3po.launch.code_source import choose_code

    package, config = tmp_path / "megatron_ar3po", tmp_path / "mine.yaml"
    package.mkdir()
    (package / "__init__.py").write_text('__version__ = "0.1.0"\n')
    config.write_text("run: {name: mine}\n")
    monkeypatch.chdir(tmp_path)

    def git(*words: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, timeout=30)

    def choose(is_remote: bool = False):
        return choose_code("git", config, is_remote=is_remote, root=tmp_path)

    with pytest.raises(ValueError, match="--code git needs a git checkout"):
        choose()
    git("init", "-q")
    git("add", "megatron_ar3po")
    git("commit", "-q", "-m", "one")
    assert choose().config == str(config)  # not in HEAD: the nodes see it here
    with pytest.raises(ValueError, match=r"sends HEAD, in which CONFIG=\S+ is not; commit it"):
        choose(is_remote=True)
    git("add", "mine.yaml")
    git("commit", "-q", "-m", "two")
    source = choose(is_remote=True)
    assert source.config == "/nemo_run/code/mine.yaml"
    version, commit, _ = source.env_vars["AR3PO_CODE"].split("/")
    assert version == "0.1.0" and len(commit) == 12
    (package / "more.py").touch()
    with pytest.raises(
        ValueError, match=r"1 files of megatron_ar3po differ from it, first megatron_ar3po/more\.py"
    ):
        choose()
    (package / "more.py").unlink()
    monkeypatch.chdir("/")
    with pytest.raises(
        ValueError, match="packs the checkout that this command is started in, and / lies outside"
    ):
        choose()
