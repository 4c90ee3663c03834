"""Checks before any compute is spent: search space, data, disk, tracking server."""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.cells import cells_of, controls_of
from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.home import Home
from orchestrator.plan_notes import plan_notes
from orchestrator.staged_data import Tell, bring_data
from orchestrator.supernet_check import (
    check_builder,
    check_weights,
    layout,
    supernet_and_graph,
    task_faults,
)
from pas_trainer import (
    About,
    DataConfig,
    DataError,
    Indexed,
    SupernetTraining,
    Task,
    content_key,
    further_epochs,
    make_task,
    plain_values,
)
from search_space import ChannelGraph, LatencyTable, check_feasible

MIB = 2**20
_BYTES_PER_PARAM = 4
_SPARE_BYTES = 64 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A sweep that can run: what it will cost and where its supernet belongs.

    Attributes:
        config: the sweep.
        supernet_training: what the supernet depends on.
        supernet_key: hash of that and of the images.
        graph: of the supernet; with latencies once there is a table.
        about: the images, for building networks.
        left_at_random: tensors for which the supernet's given weights do not fit.
        num_train, num_validation, num_test: images per split.
        latency_table: what limits on latency go by; ``None`` without such limits, and in a dry
            run that found none.
        data_version: of images that are staged on every node; else empty.
        data_digest: hash of what decides the images, see :meth:`pas_trainer.Indexed.fingerprint`.
    """

    config: SweepConfig
    supernet_training: SupernetTraining
    supernet_key: str
    graph: ChannelGraph
    about: About
    left_at_random: tuple[str, ...]
    num_train: int
    num_validation: int
    num_test: int
    latency_table: LatencyTable | None = None
    data_version: str = ""
    data_digest: str = ""

    @property
    def task(self) -> Task:
        """What the networks are for."""
        return make_task(self.config.task)

    @property
    def limits(self) -> dict[float, float]:
        """Absolute limit of each budget, in units of the resource; empty while not measured."""
        budget = self.config.budget
        if budget.resource == "latency_ms" and self.latency_table is None:
            return {}
        return budget.absolute_limits(self.graph)


@task_faults()
def make_plan(config: SweepConfig, tell: Tell = lambda _: None) -> Plan:
    """Check search space and data (nothing is decoded or trained) and return the plan.

    Images on an object store are staged on this node.

    Args:
        config: the sweep.
        tell: called with lines on the progress of that.

    Raises:
        UserError: naming the field and what is wrong with it.
    """
    try:
        task = config.check_task()
    except ValueError as error:
        raise UserError(str(error)) from None
    sources = _sources(task, config.data, tell=tell)
    supernet, graph = supernet_and_graph(config.supernet, task, sources)
    check_builder(config.supernet, task, sources)
    left_at_random, weights = check_weights(config.supernet, supernet, task.num_outputs(sources))
    try:
        config.width_rules.check(graph.groups)
    except ValueError as error:
        raise UserError(str(error)) from None
    training = SupernetTraining(
        data=config.data,
        supernet=config.supernet,
        optimizer=config.optimizer,
        pretrain=config.pretrain,
        seed=config.seed,
        device=config.device,
        task=config.task,
    )
    digest = sources.fingerprint()
    plan = Plan(
        config=config,
        supernet_training=training,
        supernet_key=content_key(_without_places(training), digest, weights, layout(supernet)),
        graph=graph,
        about=sources,
        left_at_random=left_at_random,
        num_train=len(sources.train),
        num_validation=len(sources.validation),
        num_test=len(sources.test),
        data_version=sources.version,
        data_digest=digest,
    )
    check_budgets(plan)
    workers = config.resources.workers_per_trial
    if min(plan.num_train, config.optimizer.batch_size) % workers:
        raise UserError(
            f"data: a batch of all {plan.num_train} training images cannot be shared equally by "
            f"{workers} workers (resources.workers_per_trial)"
        )
    return plan


def check_budgets(plan: Plan) -> None:
    """Check that some network meets each budget; limits on latency only once it is measured.

    Raises:
        UserError: none does.
    """
    config = plan.config
    for number in config.budget.numbers:
        budget = config.budget.budget(number)
        if plan.latency_table is None and config.budget.limits_latency:
            if budget.resource == "latency_ms":
                return
            also = {r: limit for r, limit in budget.also.items() if r != "latency_ms"}
            budget = dataclasses.replace(budget, also=also)
        try:
            check_feasible(plan.graph, budget, config.width_rules)
        except ValueError as error:
            raise UserError(f"budget: {error}") from None


def check_device(config: SweepConfig) -> None:
    """Check that the device asked for exists here, where the sweep runs on this machine.

    Raises:
        UserError: ``cuda`` without a GPU.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but torch finds no GPU here; set device to auto or cpu")


def check_disk(home: Home, plan: Plan) -> None:
    """Check that the home folder can be written and has room for the sweep.

    Counts per trial and control the package (deploy and training form; of all, since any may be on
    the front) and, per running one, a checkpoint with weights and momenta twice (old and new).
    Where they are kept on an object store, that must have the room, and each node for its trials.

    Raises:
        UserError: naming the folder, the room there is and the room needed.
    """
    try:
        home.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"home folder {home.root} cannot be created: {error.strerror}; set PAS_HOME to another"
        ) from None
    if not os.access(home.root, os.W_OK):
        raise UserError(f"home folder {home.root} is not writable; set PAS_HOME to one that is")
    network = plan.graph.count_params() * _BYTES_PER_PARAM
    running = os.cpu_count() or 1
    packages = plan.config.num_trials + len(controls_of(plan.config, plan.limits))
    need = _SPARE_BYTES
    if plan.config.storage.uri is None:
        need += 2 * network * packages + 4 * network * (running + 1)
    free = shutil.disk_usage(home.root).free
    if free < need:
        raise UserError(
            f"home folder {home.root} has {free // MIB} MiB free, the sweep needs about "
            f"{need // MIB} MiB; make room or set PAS_HOME to another disk"
        )


def describe(plan: Plan) -> dict[str, object]:
    """Return what ``--dry-run`` shows, as plain values."""
    config, graph = plan.config, plan.graph
    controls = [control.trial_id for control in controls_of(config, plan.limits)]
    notes = plan_notes(config, plan.task)
    latency: dict[str, object] = {}
    further: dict[str, object] = {}
    if config.budget.schedule == "annealed":
        phases = (config.search.epochs, config.finetune.epochs)
        further = {"epochs_per_further_budget": sum(map(further_epochs, phases))}
    if config.budget.limits_latency:
        table = plan.latency_table
        latency = {
            "latency_measured_on": table.device if table else "nothing yet: a dry run does not",
            "supernet_latency_ms": round(graph.count("latency_ms"), 4) if table else None,
        }
    return {
        "sweep_id": config.sweep_id,
        "task": config.task.name,
        "metric": plan.task.metric.name,
        "supernet": config.supernet.name,
        "supernet_macs": graph.count_macs(),
        "supernet_num_params": graph.count_params(),
        **latency,
        "supernet_weights": config.supernet.weights,
        "left_at_random": list(plan.left_at_random),
        "channel_groups": len(graph.groups),
        "searchable_share": round(graph.searchable_share(), 4),
        "pinned": list(config.supernet.pinned),
        "unsupported_ops": [
            {"module": o.module, "reason": o.reason} for o in graph.unsupported_ops()
        ],
        "resource": config.budget.resource,
        "limits": {f"{limit:g}": absolute for limit, absolute in plan.limits.items()},
        "also": config.budget.also,
        "schedule": config.budget.schedule,
        "cells": [cell.name for cell in cells_of(config)],
        "num_trials": config.num_trials,
        "controls": controls,
        "num_controls": len(controls),
        "epochs_per_trial": config.search.epochs + config.finetune.epochs,
        **further,
        "pretrain_epochs": config.pretrain.epochs,
        "train_images": plan.num_train,
        "validation_images": plan.num_validation,
        "test_images": plan.num_test,
        **({"data_version": plan.data_version} if plan.data_version else {}),
        **({"does_nothing": notes} if notes else {}),
    }


@task_faults()
def sweep_graph(config: SweepConfig, data_version: str = "") -> ChannelGraph:
    """Return the channel graph of a sweep's supernet.

    Args:
        config: the sweep.
        data_version: of the images it was planned with, as :attr:`Plan.data_version`.

    Raises:
        UserError: the data folder is not as it was.
    """
    task = make_task(config.task)
    return supernet_and_graph(config.supernet, task, _sources(task, config.data, data_version))[1]


def _sources(
    task: Task, data: DataConfig, version: str = "", tell: Tell = lambda _: None
) -> Indexed:
    try:
        bring_data(data, version, tell)
        return task.open_data(data)
    except DataError as error:
        raise UserError(f"data: {error}") from None


def _without_places(training: SupernetTraining) -> dict[str, Any]:
    """Leave out what says where things are rather than what they are, and where to search."""
    plain: dict[str, Any] = plain_values(training)
    for key in ("root", "workers", "memory_gib"):
        plain["data"].pop(key)
    for key in ("weights", "scope", "pinned"):
        plain["supernet"].pop(key)
    return plain
