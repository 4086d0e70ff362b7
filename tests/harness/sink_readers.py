"""What W&B, MLflow and TensorBoard hold of a run, read with their own libraries: by step, the numbers by name."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

Rows = dict[int, dict[str, float]]


def read_wandb(folder: Path) -> tuple[set[str], list[tuple[int, dict[str, float]]]]:
    """Of RUN/wandb: the ids of its runs, and their rows in the order in which they were written."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    protos: Any = wandb_internal_pb2
    ids: set[str] = set()
    rows: list[tuple[int, dict[str, float]]] = []
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        store = DataStore()
        store.open_for_scan(str(path))
        while (data := store.scan_data()) is not None:
            record = protos.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            elif record.WhichOneof("record_type") == "history":
                items = record.history.item
                row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
                numbers = {name: x for name, x in row.items() if not name.startswith("_")}
                rows.append((int(numbers.pop("step")), numbers))
    return ids, rows


def read_mlflow(uri: str, run_id: str) -> dict[int, dict[str, list[float]]]:
    """By step and name every value, in the order in which they came."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    rows: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in client.get_run(run_id).data.metrics:
        for metric in sorted(client.get_metric_history(run_id, name), key=lambda m: m.timestamp):
            rows[metric.step][name].append(metric.value)
    return {step: dict(row) for step, row in rows.items()}


def read_tensorboard(folder: Path) -> Rows:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    rows: Rows = defaultdict(dict)
    for name in board.Tags()["scalars"]:
        for event in board.Scalars(name):
            assert name not in rows[event.step], f"{name} of step {event.step} is there twice"
            rows[event.step][name] = event.value
    return dict(rows)


def numbers_in_file(folder: Path) -> Rows:
    """Of RUN/metrics.jsonl."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = {row.pop("step"): row for row in map(json.loads, lines)}
    return {
        step: {n: float(x) for n, x in row.items() if x is not None} for step, row in rows.items()
    }
