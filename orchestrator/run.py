"""``pas sweep``, whole: checks, supernet, trials, tracking, and a truthful end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from orchestrator.accounting import summary
from orchestrator.addresses import close_own_ray, is_own
from orchestrator.cells import cells_of, controls_of
from orchestrator.config import SweepConfig
from orchestrator.driver import (
    INTERRUPTS,
    arm_termination,
    driver_log,
    only_driver,
    terminate_as_interrupt,
)
from orchestrator.errors import SweepStoppedError, UserError
from orchestrator.growth import check_same_supernet, check_unchanged, with_recorded_cells
from orchestrator.home import PREVIEW_FILES, Home, write_json
from orchestrator.latency_table import keep_table, plan_latency
from orchestrator.preflight import Plan, check_device, check_disk, describe, make_plan
from orchestrator.progress import ProgressBoard
from orchestrator.records import TrialRecord
from orchestrator.report import SUPERNET_WIDTHS, SWEEP_FILE, log_report
from orchestrator.spool import drop_epochs
from orchestrator.storage import follow_storage, has_trials, prepare_storage
from orchestrator.study_storage import check_driver
from orchestrator.sweep import Sweep, build_studies
from orchestrator.sweep_files import files_of
from orchestrator.sweep_lock import only_driver_of_store
from orchestrator.tracking import SweepStatus, SweepTracker, TrackingError
from orchestrator.tracking_data import data_input
from orchestrator.tracking_server import check_server
from orchestrator.worker import stopping_sentence
from pas_trainer import DataError, read_supernet_result


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        sweep_id: its id.
        resource: what the budget limits.
        supernet: validation and test score of the supernet.
        metric: what networks are compared by.
        records: every trial and control that has ended, front marked.
        compute_saved: share of the trials' compute that early stopping saved, in [0, 1).
        usage: what the sweep used, see :func:`orchestrator.accounting.summary`.
        given_up: names of the cells that get no more trials because too many failed in a row.
    """

    sweep_id: str
    resource: str
    supernet: tuple[float | None, float | None]
    metric: str
    records: list[TrialRecord]
    compute_saved: float
    usage: dict[str, Any]
    given_up: list[str]


def prepare(
    config: SweepConfig,
    home: Home,
    console: Console,
    *,
    address: str | None = None,
    dry_run: bool = False,
    new: bool = False,
) -> Plan:
    """Check everything that can be checked before compute is spent.

    The plan has the cells of ``config`` and those that the sweep has already. Where latency is
    limited and has not been measured yet, that is done here (not by a dry run).

    Args:
        config: the sweep file.
        home: where state is.
        console: for progress.
        address: of a Ray cluster; ``None``: this machine.
        dry_run: measure nothing.
        new: whether another sweep of this name, with other settings, may be here.

    Raises:
        UserError: one sentence on the first thing that is wrong.
    """
    check_driver(home.optuna_url)
    prepare_storage(config, home, dry_run=dry_run)
    if not new:
        check_unchanged(config, home)
    config = with_recorded_cells(config, home)
    try:
        check_server(tracking_uri(config, home))
    except TrackingError as error:
        raise UserError(f"tracking.uri: {error}") from None
    with console.status("data") as status:
        plan = make_plan(config, status.update)
    if has_trials(config, home):
        check_same_supernet(config, plan.supernet_key, home)
    if is_own(address):
        check_device(config)
    check_disk(home, plan)
    return plan_latency(plan, home, home.sweep(config.sweep_id), console, dry_run=dry_run)


def run_sweep(
    plan: Plan,
    home: Home,
    console: Console,
    *,
    address: str | None = None,
    code: Sequence[str] = (),
) -> SweepOutcome:
    """Run the sweep, or what is left of it, to its end.

    Args:
        plan: the sweep.
        home: where state is.
        console: for progress.
        address: of a Ray cluster; ``None``: this machine.
        code: folders of packages that travel to the workers.

    Raises:
        SweepStoppedError: it stopped early; the same call resumes it.
        KeyboardInterrupt: it was interrupted; runs are closed as KILLED, the same call resumes it.
    """
    config = plan.config
    with (
        terminate_as_interrupt(),
        only_driver(home, config.sweep_id) as token,
        only_driver_of_store(config.sweep_id, config.storage.uri, token) as taken_over,
        driver_log(home, config.sweep_id) as log,
        ExitStack() as cluster,  # left once all is told: Ray's end may end the process
    ):
        follow_storage(config, home)
        _keep_plan(plan, home)
        board = _board(plan, console, log)
        previews = PREVIEW_FILES if plan.task.draws_previews else ()
        files = files_of(home, config.sweep_id, config.storage.uri, previews)
        with _storage_errors_told(), _tracking(plan, home) as tracker, files, board:
            studies = build_studies(plan, home)
            sweep = Sweep(plan, home, studies, tracker, board, files=files, taken_over=taken_over)
            sweep.catch_up()
            try:
                if sweep.has_work():
                    cluster.enter_context(_ray(address, code))
                    wait_s = None if is_own(address) else config.resources.wait_for_nodes_s
                    _run_on_ray(plan, home, sweep, tracker, board, wait_s)
                    sweep.tidy()
            finally:
                totals = sweep.account()
            if sweep.stop_reason is not None:
                raise SweepStoppedError(sweep.stop_reason)
        measured = read_supernet_result(home.supernet(plan.supernet_key))
        supernet = (measured.score, measured.test_score) if measured else (None, None)
        return SweepOutcome(
            config.sweep_id,
            config.budget.resource,
            supernet,
            plan.task.metric.name,
            sweep.ended_records(),
            sweep.compute_saved(),
            summary(sweep.ended_records(), totals, _currency(config)),
            [cell.name for cell in sweep.given_up()],
        )


def _keep_plan(plan: Plan, home: Home) -> None:
    config, folder = plan.config, home.sweep(plan.config.sweep_id)
    keep_table(plan, folder)
    write_json(
        folder / "sweep.json",
        {
            "config": config.model_dump(mode="json"),
            "tracking_uri": tracking_uri(config, home),
            "supernet_key": plan.supernet_key,
            "plan": describe(plan),
        },
    )


def _board(plan: Plan, console: Console, log: Callable[[str], None]) -> ProgressBoard:
    config = plan.config
    title = f"{config.sweep_id} on {config.data.name}, {config.supernet.name}"
    num_controls = len(controls_of(config, plan.limits))
    return ProgressBoard(
        console,
        title,
        cells_of(config),
        config.trials_per_cell,
        num_controls,
        log,
        plan.task.metric.name,
    )


@contextmanager
def _ray(address: str | None, code: Sequence[str]) -> Iterator[None]:
    if is_own(address):
        close_own_ray()
    from orchestrator.ray_cluster import ray_session

    with ray_session(address, code):
        arm_termination()
        yield


def _run_on_ray(
    plan: Plan,
    home: Home,
    sweep: Sweep,
    tracker: SweepTracker,
    board: ProgressBoard,
    wait_s: float | None,
) -> None:
    from orchestrator.ray_cluster import supernet_booking, train_supernet_on_cluster
    from orchestrator.ray_room import find_room
    from orchestrator.ray_trials import run_trials

    config, resources = plan.config, plan.config.resources
    find_room(resources, 1, wait_s, board.waiting)
    supernet_folder = home.supernet(plan.supernet_key)
    is_new = read_supernet_result(supernet_folder) is None
    trained = train_supernet_on_cluster(
        plan.supernet_training,
        supernet_folder,
        resources,
        board.supernet_progress,
        plan.data_version,
        config.storage.uri,
    )
    sweep.supernet_trained()
    if is_new:
        sweep.meter.pretrained(trained.seconds, *supernet_booking(resources))
        sweep.account()
    tracker.log_supernet(trained.score, trained.test_score)
    folder = home.sweep(config.sweep_id) / "ray"
    if resources.workers_per_trial > 1:  # see run_trials: how many run at once is fixed then
        find_room(resources, resources.max_concurrent_trials or 1, wait_s, board.waiting)
    run_trials(sweep, resources, config.scheduler, folder)


def tracking_uri(config: SweepConfig, home: Home) -> str:
    """Return where the sweep's runs go."""
    return config.tracking.uri or home.mlflow_uri


def _currency(config: SweepConfig) -> str:
    return config.resources.prices.currency if config.resources.prices else ""


@contextmanager
def _tracking(plan: Plan, home: Home) -> Iterator[SweepTracker]:
    """Track the sweep; whatever happens inside, end its runs with the status that is true."""
    try:
        tracker = tracker_of(plan, home).start()
    except TrackingError as error:
        raise UserError(str(error)) from None
    try:
        yield tracker
    except BaseException as error:
        status: SweepStatus = "KILLED" if isinstance(error, INTERRUPTS) else "FAILED"
        with suppress(TrackingError):  # what is under way says more
            tracker.close(status)
        raise
    try:
        tracker.close("FINISHED")
    except TrackingError as error:
        raise SweepStoppedError(str(error)) from None
    log_report(tracking_uri(plan.config, home), plan.config.sweep_id)


def tracker_of(plan: Plan, home: Home) -> SweepTracker:
    """Return what tracks the sweep, not started yet."""
    import yaml

    config = plan.config
    summary = describe(plan)
    images = {"train": plan.num_train, "validation": plan.num_validation, "test": plan.num_test}
    return SweepTracker(
        uri=tracking_uri(config, home),
        sweep_id=config.sweep_id,
        name=config.name,
        experiment=config.name,
        params={
            key: summary[key]
            for key in ("supernet", "supernet_macs", "supernet_num_params", "num_trials")
        }
        | {"task": config.task.name}
        | {"resource": config.budget.resource, "data": config.data.name, "seed": config.seed},
        tags={"pas.currency": _currency(config)} if _currency(config) else {},
        artifacts={
            SWEEP_FILE: yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
            SUPERNET_WIDTHS: json.dumps(plan.graph.full_widths(), indent=1),
        },
        metric=plan.task.metric.name,
        higher_is_better=plan.task.metric.higher_is_better,
        limits=plan.limits,
        hyperparameters=list(config.hyperparameters),
        data=data_input(config.data, plan.data_digest, images),
        delivered=lambda trial_id: drop_epochs(home.trial(config.sweep_id, trial_id)),
    )


@contextmanager
def _storage_errors_told() -> Iterator[None]:
    try:
        yield
    except (DataError, OSError) as error:
        raise SweepStoppedError(stopping_sentence(error)) from error
