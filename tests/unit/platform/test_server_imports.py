"""What makes a server's imports cheaper. That SGLang heeds it is seen in tests/e2e/test_rollout_server.py."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

from megatron_ar3po.model_shape import SUPPORTED
from megatron_ar3po.servers.environment import SERVED_MODELS, server_environment


def read_module(name: str) -> ast.Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def entry_classes(module: ast.Module) -> list[str]:
    """What SGLang's registry takes from a module."""
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "EntryClass":
            value = statement.value
            return [
                ast.unparse(x) for x in (value.elts if isinstance(value, ast.List) else [value])
            ]
    raise AssertionError("it has no EntryClass")


def test_a_server_registers_sglangs_own_class_of_each_supported_architecture():
    """Imported by no test: they are SGLang's, and it takes ten seconds. Read instead."""
    served = read_module(f"{SERVED_MODELS}.dense")
    assert sorted(entry_classes(served)) == sorted(SUPPORTED)
    sources = {
        alias.name: statement.module
        for statement in served.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert sorted(sources) == sorted(SUPPORTED)
    package = importlib.util.find_spec("sglang")  # without importing it
    assert package is not None and package.submodule_search_locations
    for name, source in sources.items():
        assert source is not None and source.startswith("sglang.srt.models.")
        path = Path(package.submodule_search_locations[0]).parent / source.replace(".", "/")
        own = ast.parse(path.with_suffix(".py").read_text(encoding="utf-8"))
        assert name in entry_classes(own)


def test_a_package_of_models_that_a_user_names_stays():
    name = "SGLANG_EXTERNAL_MODEL_PACKAGE"
    assert server_environment({}, [])[name] == "megatron_ar3po.platform.served_models"
    assert server_environment({name: "mine"}, [])[name] == "mine"


def test_garbage_is_collected_again_after_the_imports_and_megatron_stays_hidden():
    script = """
import gc, importlib.util, sys
from megatron_ar3po.platform.sglang_launch import light_imports
assert "torch" not in sys.modules
with light_imports():
    assert not gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() > 1000
assert importlib.util.find_spec("megatron") is None
try:
    import megatron.core
except ImportError:
    print("hidden")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "hidden\n", done.stderr
