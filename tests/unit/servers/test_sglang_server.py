import socket
import sys
import textwrap
import time
from pathlib import Path

import pytest

from megatron_ar3po.config.run import RunConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.sglang_launch import OWNER_VARIABLE
from megatron_ar3po.servers.arguments import (
    MEM_FRACTION_STATIC,
    check_pass_through,
    server_arguments,
)
from megatron_ar3po.servers.environment import server_environment
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.servers.time_limits import TimeLimits, time_limits
from megatron_ar3po.usage import ServerCounters


def make_server(
    tmp_path, number=0, interpreter=sys.executable, stop_grace_s=5.0, owner="", **options
) -> SglangServer:
    placement = ServerPlacement(name="dp0.s0", number=number)
    return SglangServer(
        ServersConfig(**options),
        placement,
        model_path="model",
        dtype="float32",
        is_deterministic=False,
        log_dir=tmp_path / "logs",
        owner=owner,
        interpreter=interpreter,
        stop_grace_s=stop_grace_s,
    )


@pytest.fixture
def python_that(tmp_path):
    """An interpreter that runs the given lines of shell, whatever it is asked to run."""

    def make(script):
        interpreter = tmp_path / "python"
        interpreter.write_text(f"#!/bin/sh\n{script}\n")
        interpreter.chmod(0o755)
        return interpreter

    return make


def test_a_port_in_use_is_named_before_anything_starts(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"servers.port={port} cannot be used"):
            make_server(tmp_path, port=port)


def test_a_chosen_port_stays_reserved_and_can_still_be_listened_on(tmp_path):
    server = make_server(tmp_path)
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", server.port))
    with socket.socket() as listener:  # as SGLang does
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", server.port))
        listener.listen()
    assert make_server(tmp_path).port != server.port


def test_servers_of_one_machine_count_a_chosen_port_up(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert make_server(tmp_path, port=port).port == port
    assert make_server(tmp_path, number=1, port=port).port == port + 1


def test_the_servers_environment_forgets_the_trainers_process_group():
    trainer = {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "x",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        "PATH": "/usr/bin",
        "PYTHONPATH": "/elsewhere",
    }
    environment = server_environment(trainer, ["2", "3"])
    assert {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}.isdisjoint(
        environment
    )
    assert "TORCHELASTIC_RUN_ID" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert environment["PATH"] == "/usr/bin"
    assert environment["PYTHONPATH"].endswith(":/elsewhere")


def arguments(*, is_deterministic=False, on_gpu=False, **options):
    return server_arguments(
        ServersConfig(**options),
        model_path="m",
        dtype="bfloat16",
        port=1234,
        tensor_parallel_size=2,
        is_deterministic=is_deterministic,
        on_gpu=on_gpu,
    )


def test_arguments_follow_the_config():
    given = arguments(is_deterministic=True, max_total_tokens=512)
    assert (given["port"], given["dtype"], given["tp_size"]) == (1234, "bfloat16", 2)
    assert given["enable_deterministic_inference"] is True
    assert (given["device"], given["max_total_tokens"]) == ("cpu", 512)


def test_beside_a_gpu_sglang_chooses_its_own_kernels_and_can_sleep():
    given = arguments(on_gpu=True)
    assert {"device", "attention_backend", "max_total_tokens"}.isdisjoint(given)
    assert "enable_deterministic_inference" not in given
    assert given["enable_memory_saver"] is True
    assert given["mem_fraction_static"] == MEM_FRACTION_STATIC
    assert arguments(on_gpu=True, sglang={"mem_fraction_static": 0.5})["mem_fraction_static"] == 0.5


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_server_warms_up_where_kernels_compile_and_sleeps_when_it_is_idle_everywhere(on_gpu):
    given = arguments(on_gpu=on_gpu)
    assert given["skip_server_warmup"] is not on_gpu
    assert given["sleep_on_idle"] is True


def test_limits_that_nobody_set_are_those_of_the_device():
    """1500 s hold 65 GB at 100 MB/s, which is 650 s, and the capture of graphs; the other ranks wait for longer."""
    assert time_limits(ServersConfig(), on_gpu=False) == TimeLimits(start_s=600.0, hang_s=120.0)
    assert time_limits(ServersConfig(), on_gpu=True) == TimeLimits(start_s=1500.0, hang_s=300.0)
    assert time_limits(ServersConfig(), on_gpu=True).start_s < RunConfig().collective_timeout_s
    stated = ServersConfig(start_timeout_s=7.0, hang_timeout_s=8.0)
    assert time_limits(stated, on_gpu=True) == TimeLimits(start_s=7.0, hang_s=8.0)


@pytest.mark.parametrize(
    "name",
    ["port", "model_path", "tp_size", "enable_deterministic_inference", "gated_launch_port"],
)
def test_an_option_that_the_trainer_sets_is_refused_in_the_pass_through(name):
    with pytest.raises(ValueError, match=f"servers.sglang.{name} is set by"):
        check_pass_through({name: 1})


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"sglang\.mem_fraction is no option.*mem_fraction_static"):
        check_pass_through({"mem_fraction": 0.5})
    with pytest.raises(ValueError, match=r"no option of this SGLang; see"):
        check_pass_through({"qqqq": 1})
    check_pass_through({"mem_fraction_static": 0.5, "disable_radix_cache": True})


def test_a_server_that_dies_at_once_says_so_with_its_last_lines(tmp_path, python_that):
    """Nothing of SGLang is started."""
    failing = python_that("echo $6; echo 'two: out of luck' >&2; exit 7")
    server = make_server(tmp_path, interpreter=failing)
    server.start()
    with pytest.raises(RolloutEngineError) as error:
        server.wait_ready()
    assert "dp0.s0 died while starting. Its exit code was 7" in str(error.value)
    assert "two: out of luck" in str(error.value) and str(server.log_path) in str(error.value)
    temporary = Path(server.log_path.read_text().splitlines()[0])
    assert temporary.is_dir()
    server.stop()
    server.stop()
    assert not temporary.exists()


def test_a_server_that_never_gets_ready_is_ended_at_the_limit(tmp_path, python_that):
    sleeping = python_that("sleep 60 & sleep 60")
    server = make_server(tmp_path, interpreter=sleeping, stop_grace_s=0.2, start_timeout_s=0.7)
    server.start()
    lines = []
    with pytest.raises(RolloutEngineError, match=r"servers\.start_timeout_s=0\.7"):
        server.wait_ready(lines.append, report_every_s=0.3)
    assert lines[0].startswith(f"waiting for server 127.0.0.1:{server.port}: 0 s of at most 0.7 s")
    assert not server.is_running()


@pytest.mark.parametrize("owner", ["process 7, run of one", ""])
def test_each_process_of_a_server_is_told_whose_it_is(tmp_path, python_that, monkeypatch, owner):
    """Empty: nobody's; what the trainer's own environment may say does not count."""
    monkeypatch.setenv(OWNER_VARIABLE, "somebody")
    telling = python_that(f'echo "${OWNER_VARIABLE}/$AR3PO_SERVER_PROCESS"; exit 7')
    server = make_server(tmp_path, interpreter=telling, owner=owner)
    for start in (server.start, server.restart):  # a restart is a process of its own
        with pytest.raises(RolloutEngineError, match="died while starting"):
            start()
            server.wait_ready()
    server.stop()
    assert server.log_path.read_text().splitlines() == [f"{owner}/dp0.s0/0", f"{owner}/dp0.s0/1"]


def test_no_more_restarts_than_allowed(tmp_path):
    server = make_server(tmp_path, max_server_restarts=0)
    with pytest.raises(RolloutEngineError, match=r"servers\.max_server_restarts=0"):
        server.restart()


def test_a_server_of_another_model_is_refused_before_the_first_request(tmp_path, python_that):
    """In the place of SGLang answers a small server that is ready and names another model."""
    script = """
        import http.server, json, sys
        class Other(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"model_path": "/models/other"}).encode())
        port = json.loads(sys.argv[-1])["port"]
        http.server.HTTPServer(("127.0.0.1", port), Other).serve_forever()
    """
    other = tmp_path / "other.py"
    other.write_text(textwrap.dedent(script))
    named = python_that(f'exec {sys.executable} {other} "$@"')
    server = make_server(tmp_path, interpreter=named, stop_grace_s=0.2)
    server.start()
    try:
        with pytest.raises(ValueError, match=r"serves the model /models/other, not model\.path="):
            server.wait_ready()
    finally:
        server.stop()


GATED = """
    import http.server, json, sys, threading
    arguments = json.loads(sys.argv[-1])
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            print("opened", flush=True)
            self.send_response(200)
            self.end_headers()
            is_open.set()
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            counted = b'sglang:num_requests_total{a="1"} 1.0\\nsglang:generation_tokens_total{a="1"} 8.0'
            model = json.dumps({"model_path": arguments["model_path"]}).encode()
            self.wfile.write(counted if self.path == "/metrics/" else model)
    is_open = threading.Event()
    serve = lambda port: http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
    print("gate" if "gated_launch_port" in arguments else "no gate", flush=True)
    if "gated_launch_port" in arguments:
        threading.Thread(target=serve, args=(arguments["gated_launch_port"],), daemon=True).start()
        is_open.wait()
    serve(arguments["port"])
"""


def test_behind_its_gate_a_server_waits_until_it_is_let_in_and_its_warm_up_counts_for_nobody(
    tmp_path, python_that
):
    """In the place of SGLang a small server that takes its gate as SGLang does."""
    gated = tmp_path / "gated.py"
    gated.write_text(textwrap.dedent(GATED))
    named = python_that(f'exec {sys.executable} {gated} "$@"')
    server = make_server(tmp_path, interpreter=named, stop_grace_s=0.2)
    server.start(behind_gate=True)
    try:
        assert server.is_at_gate
        with pytest.raises(AssertionError, match="waits at its gate"):
            server.wait_ready()
        server.open_gate()
        assert not server.is_at_gate
        server.wait_ready()
        assert server.counters_before == ServerCounters(requests=1, generated_tokens=8)
        server.restart_behind_gate()
        assert (server.is_at_gate, server.num_restarts) == (True, 1)
        server.open_gate()
        server.wait_ready()
        server.restart()  # the accelerators are free: nobody has to open
        assert not server.is_at_gate
    finally:
        server.stop()
    lines = [
        x for x in server.log_path.read_text().splitlines() if x in ("gate", "opened", "no gate")
    ]
    assert lines == ["gate", "opened", "gate", "opened", "no gate"]


def test_a_gate_that_misses_one_call_after_a_long_training_phase_is_asked_again(
    tmp_path, python_that, monkeypatch
):
    """Nobody waited for the server while the actor trained for longer than the limit."""
    server = make_server(
        tmp_path, interpreter=python_that("sleep 60"), stop_grace_s=0.2, start_timeout_s=5
    )
    answers, now = iter([False, True]), time.monotonic
    server.start(behind_gate=True)
    try:
        monkeypatch.setattr(server._gate, "open", lambda: next(answers))
        monkeypatch.setattr(time, "monotonic", lambda: now() + 10_000)
        server.open_gate()
    finally:
        server.stop()
    assert list(answers) == []


def test_a_server_that_dies_at_its_gate_says_so(tmp_path, python_that):
    server = make_server(tmp_path, interpreter=python_that("echo 'no such model' >&2; exit 7"))
    server.start(behind_gate=True)
    with pytest.raises(RolloutEngineError, match=r"died while starting(.|\n)*no such model"):
        server.open_gate()
    server.stop()
