"""MLflow as a metric sink: a tracking server by its address, or a local store (`sqlite:///FILE`)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from itertools import islice

_METRICS_A_CALL, _PARAMS_A_CALL, _LONGEST_PARAM = 1000, 100, 500


class MlflowSink:
    def __init__(
        self, *, uri: str, experiment: str, name: str, run_id: str, options: Mapping[str, str]
    ) -> None:
        """`run_id`: of the run before, or "". `options`: the config, dotted, which MLflow keeps of a new run."""
        # It would tell its makers that it is used, print an address on standard output, and wait for minutes for a
        # server that is away, which is asked again anyway.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.tracking import MlflowClient  # slow to import, and an extra

        self._client = MlflowClient(tracking_uri=uri)
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
        else:
            run_id = self._begin(experiment, name, options)
        self.run_id = run_id

    def _begin(self, experiment: str, name: str, options: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        run_id = self._client.create_run(experiment_id, run_name=name).info.run_id
        params = iter([Param(key, value[:_LONGEST_PARAM]) for key, value in options.items()])
        while some := list(islice(params, _PARAMS_A_CALL)):
            self._client.log_batch(run_id, params=some)
        return run_id

    def write(self, step: int, row: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = iter([Metric(key, float(value), now_ms, step) for key, value in row.items()])
        while some := list(islice(metrics, _METRICS_A_CALL)):
            self._client.log_batch(self.run_id, metrics=some)

    def close(self, *, is_done: bool) -> None:
        self._client.set_terminated(self.run_id, "FINISHED" if is_done else "KILLED")
