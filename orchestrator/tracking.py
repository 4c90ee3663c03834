"""Tracking a sweep in MLflow: calls return at once, one background thread writes in batches.

Training never waits for the tracking store and never fails because of it. What cannot be written
now stays queued, per trial and merged, and is tried again; :meth:`SweepTracker.close` says what
could not be delivered in the end. See :mod:`orchestrator.tracking_writer` for what is written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from orchestrator.records import TrialRecord
from orchestrator.tracking_data import DataInput
from orchestrator.tracking_note import SweepFacts
from orchestrator.tracking_queue import BACKOFF_S, SweepStatus, WriteQueue
from orchestrator.tracking_server import (
    TrackingError,
    check_server,
    describe,
    is_temporary,
    mask_uri,
    open_client,
    use_write_ahead_log,
)
from orchestrator.tracking_sweep import (
    SweepRun,
    find_or_create_experiment,
    find_or_create_sweep_run,
)
from orchestrator.tracking_views import view_tags
from orchestrator.tracking_writer import SweepWriter, TrialWrites

__all__ = ["SweepStatus", "SweepTracker", "TrackingError"]

T = TypeVar("T")

_START_TRIES = 4


class SweepTracker:
    """One sweep's run and its trials' runs, written by the driver and by nobody else.

    Args:
        uri: tracking store, for example ``sqlite:////home/me/.pas/mlflow.db`` or ``http://…``.
        sweep_id: the sweep's name and hash; the same id finds the same runs again.
        name: shown as the sweep run's name.
        experiment: MLflow experiment, created if need be (its files beside a sqlite database).
        params: logged once; ``params["resource"]`` (default ``macs``) is logged with each trial.
        tags: of the sweep's run.
        artifacts: file name -> text, at the sweep run's artifact root.
        metric, higher_is_better: what networks are compared by.
        limits: budget -> the same in units of the resource, where that is known.
        hyperparameters: names of those that vary from trial to trial.
        data: what is trained on, an input of every run.
        delivered: called, from another thread, with the id of each ended trial that the store has.

    Raises:
        ValueError: ``sweep_id`` contains a quote or backtick.
    """

    def __init__(
        self,
        *,
        uri: str,
        sweep_id: str,
        name: str,
        experiment: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        artifacts: Mapping[str, str],
        metric: str = "accuracy",
        higher_is_better: bool = True,
        limits: Mapping[float, float] = MappingProxyType({}),
        hyperparameters: Sequence[str] = (),
        data: DataInput | None = None,
        delivered: Callable[[str], None] = lambda _trial_id: None,
    ) -> None:
        if set(sweep_id) & set("'\"`"):
            raise ValueError(f"a sweep's id cannot contain quotes: {sweep_id}")
        self._uri, self._sweep_id, self._name, self._experiment = uri, sweep_id, name, experiment
        self._params, self._tags, self._artifacts = dict(params), dict(tags), dict(artifacts)
        self._limits, self._hyperparameters, self._data = limits, hyperparameters, data
        self._metric, self._higher_is_better = metric, higher_is_better
        self._delivered = delivered
        self._running: dict[str, tuple[TrialRecord, int]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> SweepTracker:
        """Find or create experiment and sweep run, read the trials' runs, start the thread.

        Raises:
            TrackingError: the store cannot be reached or refuses; nothing was started.
        """
        check_server(self._uri)
        client = _try_some_times(lambda: open_client(self._uri), self._uri)
        use_write_ahead_log(self._uri)
        resource = str(self._params.get("resource", "macs"))
        tags = {"pas.resource": resource, "pas.metric": self._metric} | self._tags
        if not self._higher_is_better:
            tags["pas.lower_is_better"] = "true"

        def prepare() -> None:
            experiment_id = find_or_create_experiment(client, self._uri, self._experiment)
            run_id = find_or_create_sweep_run(client, experiment_id, self._sweep_id, self._name)
            self._offer_views(client, experiment_id, resource)
            self._sweep = SweepRun(client, run_id, self._name, self._facts(experiment_id, resource))
            self._sweep.describe(self._params, tags, self._artifacts, self._data)
            self._writer = SweepWriter(
                client,
                experiment_id=experiment_id,
                sweep_run_id=run_id,
                sweep_id=self._sweep_id,
                resource=resource,
                limits=self._limits,
                data=self._data,
            )

        _try_some_times(prepare, self._uri)
        self._queue = WriteQueue(self._uri, self._sweep, self._writer, self._delivered)
        return self

    def _facts(self, experiment_id: str, resource: str) -> SweepFacts:
        numbers: Any = self._params
        return SweepFacts(
            sweep_id=self._sweep_id,
            experiment_id=experiment_id,
            resource=resource,
            metric=self._metric,
            limits=self._limits,
            num_trials=numbers.get("num_trials"),
            supernet_macs=numbers.get("supernet_macs"),
        )

    def _offer_views(self, client: Any, experiment_id: str, resource: str) -> None:
        """Add the sweep's views to the experiment; one that is there may have been changed."""
        there = client.get_experiment(experiment_id).tags
        views = view_tags(
            self._sweep_id,
            resource,
            self._hyperparameters,
            _now_ms(),
            self._metric,
            higher_is_better=self._higher_is_better,
        )
        for name, view in views.items():
            if name not in there:
                client.set_experiment_tag(experiment_id, name, view)

    @property
    def run_id(self) -> str:
        """MLflow run of the sweep."""
        return self._sweep.run_id

    def trial_started(self, record: TrialRecord) -> None:
        """Open the trial's run, or the one it had. Status RUNNING, parameters logged once."""
        now = _now_ms()
        with self._lock:
            self._running[record.trial_id] = (record, now)
            self._queue.put_trial(TrialWrites(record, now, now))

    def log_epoch(
        self, trial_id: str, metrics: Mapping[str, float], step: int, time_ms: int | None = None
    ) -> None:
        """Log one epoch; steps count on through a trial's phases. A step logged before is skipped.

        Args:
            trial_id: of a trial that has been started.
            metrics: by name.
            step: of the epoch.
            time_ms: when it was, milliseconds since 1970; by default now.

        Raises:
            ValueError: the trial is not running.
        """
        now = _now_ms()
        when = now if time_ms is None else time_ms
        epochs = [(name, float(value), step, when) for name, value in metrics.items()]
        with self._lock:
            if trial_id not in self._running:
                raise ValueError(f"trial {trial_id} is not running: call trial_started first")
            record, started = self._running[trial_id]
            self._queue.put_trial(TrialWrites(record, started, now, epochs))

    def trial_finished(self, record: TrialRecord, artifacts: Mapping[str, str | bytes]) -> None:
        """Write results, files and status. Writing the same trial again changes nothing."""
        now = _now_ms()
        with self._lock:
            _, started = self._running.pop(record.trial_id, (record, now))
            self._queue.put_trial(TrialWrites(record, started, now, [], dict(artifacts)))

    def update_front(
        self,
        records: Sequence[TrialRecord],
        resource: str,
        supernet_cost: float,
        limits: Sequence[float] = (),
    ) -> None:
        """Redraw the front soon; of many calls in a short time only the newest is drawn.

        Args:
            records: of the sweep.
            resource: what its budgets limit.
            supernet_cost: of the supernet, in the resource.
            limits: of the cells, in units of the resource; drawn as lines.
        """
        self._queue.put_front(list(records), resource, supernet_cost, list(limits))

    def log_supernet(self, score: float | None, test_score: float | None) -> None:
        """Log the supernet's scores with the sweep."""
        metric = self._metric
        values = {f"supernet_{metric}": score, f"supernet_test_{metric}": test_score}
        self._queue.put_values({name: v for name, v in values.items() if v is not None})

    def log_totals(self, totals: Mapping[str, float]) -> None:
        """Log what the sweep has used until now, see :data:`orchestrator.accounting.TOTALS`."""
        self._queue.put_values(totals)

    def close(self, status: SweepStatus, timeout_s: float = 30.0) -> None:
        """Write what is queued, end every run truthfully, stop the thread. Closing twice is fine.

        Trials still RUNNING become KILLED.

        Raises:
            TrackingError: something could not be written within ``timeout_s``, or was refused.
        """
        if self._closed:
            return
        self._closed = True
        left = self._queue.close(status, timeout_s)
        if left is not None:
            raise TrackingError(
                f"the tracking store {mask_uri(self._uri)} did not take everything within "
                f"{timeout_s:g} s ({left} trials still queued; "
                f"{self._queue.last_error or 'it is slow'}); run the same sweep again to write "
                "the rest"
            )
        refused = self._queue.refused
        if refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise TrackingError(f"the tracking store refused a write: {refused[0]}{more}")


def _try_some_times(action: Callable[[], T], uri: str) -> T:
    """At the start: ride out a short outage, or another process creating the same database."""
    for attempt in range(_START_TRIES):
        try:
            return action()
        except Exception as error:
            last = attempt == _START_TRIES - 1
            if last or not (isinstance(error, TrackingError) or is_temporary(error)):
                if isinstance(error, TrackingError):
                    raise
                raise TrackingError(
                    f"tracking store {mask_uri(uri)} cannot be used: {describe(error, uri)}"
                ) from error
            time.sleep(BACKOFF_S[attempt])
    raise AssertionError("unreachable")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
