"""The drawing of the house, held against the imports. The only test that knows about layers.

floor 6   cli   launch/   reporting/   comparison/   evaluation/   preparation/
floor 5   train   wiring/
floor 4   trainer   policy_update
floor 3   rollout/ servers/ actor/ weight_sync/ reuse/ data/ rewards/ run/   colocation   evaluator
floor 2   algorithm/   observability/
floor 1   types   update_stats   records   usage   sampling_cost   interfaces   hf_folder   http_client
          async_tasks   user_functions   model_shape   response_json   file_digests   folder_owner
          disk_faults   config/   distributed/   platform/
"""

import ast
import graphlib
from collections import Counter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "megatron_ar3po"

FLOORS = [
    {
        *("types", "update_stats", "records", "usage", "sampling_cost", "interfaces"),
        *("hf_folder", "http_client"),
        *("async_tasks", "user_functions", "model_shape", "response_json", "file_digests"),
        *("folder_owner", "disk_faults", "prompt_record", "prompt_set"),
        *("config", "distributed", "platform"),
    },
    {"algorithm", "observability"},
    {
        *("rollout", "servers", "actor", "weight_sync", "reuse", "data", "rewards", "run"),
        *("colocation", "evaluator"),
    },
    {"trainer", "policy_update"},
    {"train", "wiring"},
    {"cli", "launch", "reporting", "comparison", "evaluation", "preparation"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}

# Heavy libraries and the rooms that may import them.
HOMES = {
    "megatron": {"actor", "weight_sync", "platform"},
    "sglang": {"servers", "weight_sync", "platform"},
    "nemo_run": {"launch"},
}

HTTP_CLIENTS = {
    *("aiohttp", "httpx", "httpcore", "pycurl", "requests", "urllib3", "websockets"),
    *("http.client", "urllib.request"),
}

# Who tells children that this node is reached without one.
NAMES_PROXIES = {PACKAGE / "platform/process_environment.py"}

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_rooms(path: Path) -> set[str]:
    names = (m.split(".") for m in imported_modules(path) if m.startswith("megatron_ar3po."))
    return {parts[1] for parts in names} & set(FLOOR)


def test_every_room_stands_on_a_floor():
    assert {room_of(f) for f in FILES} - {"__init__"} <= set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_and_rooms_of_floor_3_do_not_know_each_other(path):
    room = room_of(path)
    if room == "__init__":
        return
    for other in imported_rooms(path) - {room}:
        if FLOOR[room] == 3:
            assert FLOOR[other] < 3, f"{room} (floor 3) imports {other} (floor {FLOOR[other]})"
        else:
            assert FLOOR[other] <= FLOOR[room], f"{room} imports up: {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_stay_in_their_homes(path):
    tops = {name.split(".")[0] for name in imported_modules(path)}
    for library, homes in HOMES.items():
        assert library not in tops or room_of(path) in homes, f"{room_of(path)} imports {library}"


def test_exactly_one_module_imports_an_http_client_library():
    importing = [
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(
            name == client or name.startswith(f"{client}.")
            for name in imported_modules(path)
            for client in HTTP_CLIENTS
        )
    ]
    assert importing == ["http_client.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_reads_proxy_variables(path):
    """Not by name (who drops them all has the ending alone), not through a helper of the standard library, not by
    asking aiohttp for it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.lower()
            is_told = path in NAMES_PROXIES or name == "_proxy"
            assert is_told or not name.endswith("_proxy"), node.value
        elif isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            assert name not in {"getproxies", "getproxies_environment"}
        elif isinstance(node, ast.keyword) and node.arg == "trust_env":
            assert isinstance(node.value, ast.Constant) and node.value.value is False


def test_no_module_imports_itself_by_way_of_others():
    """Within a room too, and also where an import is put off into a function."""
    by_name = {module_name(path): path for path in FILES}
    imports = {
        name: (imported_modules(path) & by_name.keys()) - {name} for name, path in by_name.items()
    }
    order = graphlib.TopologicalSorter(imports)
    try:
        order.prepare()
    except graphlib.CycleError as error:
        raise AssertionError(f"imports in a circle: {' <- '.join(error.args[1])}") from None


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_two_files_of_tests_share_a_name():
    """Pytest imports them by their names alone and could not collect them together."""
    names = Counter(path.name for path in PACKAGE.parent.glob("tests/**/*.py"))
    assert [name for name, count in names.items() if count > 1] in ([], ["conftest.py"])


@pytest.mark.parametrize(
    ("folders", "most"), [(["megatron_ar3po"], 400), (["tests", "benchmarks"], 600)]
)
def test_a_file_has_one_thought_and_an_end(folders, most):
    files = [path for folder in folders for path in (PACKAGE.parent / folder).rglob("*.py")]
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > most} == {}
