"""A real Slurm cluster on loopback: munged, slurmctld and N slurmd as children of this process.

Up in a few seconds, no systemd, no cgroups; eight pretended GPUs a node. The daemons run in the foreground and are
ended by their handles; they end too when this process is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "libslurm-dev", "gcc")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "gcc")
GPUS_PER_NODE = 8
ENDED = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
    "DEADLINE",
}


def why_not() -> str:
    """Why no cluster can run here; empty when one can. Installs the packages when that is possible."""
    if os.geteuid() != 0:
        return "a Slurm cluster on loopback needs root (munge, /etc/hosts, mounts)"
    missing = [p for p in PROGRAMS if shutil.which(p) is None]
    if not Path("/usr/include/slurm/spank.h").is_file():
        missing.append("spank.h")
    if missing and shutil.which("apt-get") is None:
        return f"{', '.join(missing)} missing, and no apt-get to install them"
    if missing:
        install = [
            "apt-get",
            "install",
            "-o",
            "DPkg::Lock::Timeout=120",
            "-y",
            "-q",
            "--no-install-recommends",
            *PACKAGES,
        ]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            install, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode:  # a fresh machine has no package lists yet
            subprocess.run(
                ["apt-get", "update", "-q"], env=env, capture_output=True, timeout=300, check=False
            )
            done = subprocess.run(
                install, env=env, capture_output=True, text=True, timeout=300, check=False
            )
        if done.returncode:
            return f"apt-get install of {' '.join(PACKAGES)} failed: {done.stderr.strip()[-300:]}"
    return ""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as `scontrol show job` tells it."""

    state: str
    restarts: int
    exit_code: str


@dataclass
class SlurmCluster:
    """`start` to use it, `stop` to end it. Partitions: batch (default) and urgent, which pre-empts it."""

    num_nodes: int = 4
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")))
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def nodes(self) -> list[str]:
        return [f"node{i + 1}" for i in range(self.num_nodes)]

    @property
    def env(self) -> dict[str, str]:
        """The environment of a client; no variables of an outer job or of NeMo-Run."""
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("SLURM_", "SBATCH_", "NEMORUN_"))
        }
        return {**kept, "SLURM_CONF": str(self.root / "slurm.conf")}

    def start(self, timeout_s: float = 60.0) -> None:
        for name in ("state", "log", "dev", *(f"spool/{node}" for node in self.nodes)):
            (self.root / name).mkdir(parents=True)
        self.root.chmod(0o755)
        for gpu in range(GPUS_PER_NODE):
            (self.root / f"dev/gpu{gpu}").symlink_to("/dev/null")
        self._write_settings()
        self._name_nodes()
        root = self.root
        where = {
            "socket": "munge",
            "key-file": "key",
            "pid-file": "munged.pid",
            "seed-file": "seed",
        }
        files = [f"--{option}={root}/{name}" for option, name in where.items()]
        self._spawn(
            "munged", "-F", "-f", "--num-threads=2", f"--log-file={root}/log/munged", *files
        )
        self.wait_until(
            lambda: (self.root / "munge").exists(), timeout_s, "munged opens its socket"
        )
        self._spawn("slurmctld", "-D", "-c")
        for node in self.nodes:
            self.start_node(node)
        self.wait_until(self.is_idle, timeout_s, "all nodes are idle")

    def start_node(self, node: str) -> None:
        self._spawn("slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """As a power failure: the daemon and everything it started end without a word. Slurm would notice after
        SlurmdTimeout; it is told at once."""
        (daemon,) = [d for d in self.daemons if d.args == ("slurmd", "-D", "-N", node)]
        self.daemons.remove(daemon)
        daemon.kill()
        daemon.wait()
        for line in processes_that_mention(f"SLURMD_NODENAME={node}\0"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.partition(":")[0]), signal.SIGKILL)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def stop(self) -> None:
        """Ends jobs first: their step daemons are not children of this process."""
        if self.daemons:
            self.run("scancel", "--user=root", check=False)
            self.wait_until(self.is_idle, 30, "jobs end", check=False)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._forget_nodes()
        shutil.rmtree(self.root, ignore_errors=True)  # a late log line may fall into it

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> str:
        done = subprocess.run(
            command,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0 or not check, (
            f"{command}: code {done.returncode}: {done.stderr}{done.stdout}"
        )
        return done.stdout

    def sbatch(
        self, script: Path | str, *words: str, options: Sequence[str] = (), env: Mapping[str, str]
    ) -> int:
        return int(self.run("sbatch", "--parsable", *options, str(script), *words, env=env).strip())

    def job(self, job_id: int) -> Job:
        shown = self.run("scontrol", "-o", "show", "job", str(job_id))
        values = dict(re.findall(r"(\w+)=(\S*)", shown))
        return Job(
            state=values["JobState"], restarts=int(values["Restarts"]), exit_code=values["ExitCode"]
        )

    def wait_for_job(self, job_id: int, timeout_s: float = 120) -> Job:
        """Until the job has ended for good and its nodes are free."""
        self.wait_until(lambda: self.job(job_id).state in ENDED, timeout_s, f"job {job_id} ends")
        self.wait_until(self.is_idle, timeout_s, f"the nodes of job {job_id} are free")
        return self.job(job_id)

    def wait_for_file(self, path: Path, timeout_s: float = 60) -> None:
        self.wait_until(path.exists, timeout_s, f"{path} appears")

    def is_idle(self) -> bool:
        states = self.run("sinfo", "-h", "-N", "-p", "batch", "-o", "%T", check=False).split()
        return states == ["idle"] * self.num_nodes

    def _spawn(self, *command: str) -> None:
        with (self.root / "log" / f"{Path(command[0]).name}.out").open("ab") as log:
            self.daemons.append(
                subprocess.Popen(
                    command,
                    env=self.env,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_follow_the_parent,
                )
            )

    def wait_until(
        self, condition: Callable[[], bool], timeout_s: float, what: str, check: bool = True
    ) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                if check:
                    raise TimeoutError(
                        f"not within {timeout_s:.0f} s: {what}\n{self._last_log_lines()}"
                    )
                return
            time.sleep(0.2)

    def _last_log_lines(self) -> str:
        logs = sorted((self.root / "log").glob("*"))
        return "\n".join(
            f"--- {f.name}\n" + "\n".join(f.read_text().splitlines()[-15:]) for f in logs
        )

    def _name_nodes(self) -> None:
        """MASTER_ADDR is a node's name, so the names must resolve."""
        self._change_hosts(
            add=[f"127.0.1.{11 + i} {node} # {self.root}\n" for i, node in enumerate(self.nodes)]
        )

    def _forget_nodes(self) -> None:
        self._change_hosts(add=[])

    def _change_hosts(self, *, add: Sequence[str]) -> None:
        """In place, for in a container /etc/hosts is a mount of its own; locked, for another checkout's cluster may
        start or stop at this moment."""
        with Path("/etc/hosts").open("r+") as hosts:
            fcntl.flock(hosts, fcntl.LOCK_EX)
            kept = [line for line in hosts if f"# {self.root}" not in line]
            hosts.seek(0)
            hosts.truncate()
            hosts.writelines([*kept, *add])

    def _write_settings(self) -> None:
        root, host = self.root, socket.gethostname().split(".")[0]
        (root / "key").write_bytes(secrets.token_bytes(128))
        (root / "key").chmod(0o600)
        ports = _free_ports(1 + self.num_nodes)
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=1000000 "
            f"Gres=gpu:{GPUS_PER_NODE}"
            for node, port in zip(self.nodes, ports[1:], strict=True)
        )
        (root / "slurm.conf").write_text(
            SLURM_CONF.format(
                root=root,
                host=host,
                port=ports[0],
                first_job=random.randrange(1, 1_000_000),
                nodes=nodes,
            )
        )
        (root / "gres.conf").write_text(
            "".join(
                f"NodeName={node} Name=gpu File={root}/dev/gpu[0-{GPUS_PER_NODE - 1}]\n"
                for node in self.nodes
            )
        )
        plugin = root / "pyxis_stand_in.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", plugin, HERE / "pyxis_stand_in.c"],
            check=True,
            timeout=60,
        )
        (root / "plugstack.conf").write_text(f"required {plugin}\n")


# FirstJobId: MASTER_PORT follows from the job's number, and another checkout's cluster may run beside this one.
# cred_expire: a requeued job waits for its old credential to expire (2 minutes by default). MinJobAge: otherwise an
# ended job is forgotten while a test still asks for it.
SLURM_CONF = """\
ClusterName=loopback
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny,NoAddrCache
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld
SlurmdLogFile={root}/log/slurmd-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=5,sched_interval=2,batch_sched_delay=1,sched_min_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
SwitchType=switch/none
PlugStackConfig={root}/plugstack.conf
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
SlurmctldTimeout=60
SlurmdTimeout=120
GresTypes=gpu
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=100 PreemptMode=OFF
"""


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _follow_the_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def processes_that_mention(text: str) -> list[str]:
    """Command lines of the processes that have `text` in their words or environment, this one left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            words = (folder / "cmdline").read_bytes()
            if text.encode() in words + (folder / "environ").read_bytes():
                found.append(
                    f"{folder.name}: {words.replace(bytes(1), b' ').decode(errors='replace')}"
                )
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it ended while we looked
    return found
