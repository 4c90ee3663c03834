"""Checks before any compute is spent: search space, data, disk, tracking server."""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass

import torch

from orchestrator.cells import cells_of
from orchestrator.config import SweepConfig
from orchestrator.errors import UserError
from orchestrator.home import Home
from pas_trainer import DataError, SupernetTraining, content_key, open_sources
from search_space import Budget, ChannelGraph, build_supernet, check_feasible, trace_channels

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
        supernet_macs, supernet_params: of the supernet in deploy form, one image.
        limits: absolute limit of each budget, in units of the resource.
        num_train, num_validation, num_test: images per split.
    """

    config: SweepConfig
    supernet_training: SupernetTraining
    supernet_key: str
    supernet_macs: int
    supernet_params: int
    limits: dict[float, int]
    num_train: int
    num_validation: int
    num_test: int


def make_plan(config: SweepConfig) -> Plan:
    """Check search space and data (nothing is decoded or trained) and return the plan.

    Raises:
        UserError: naming the field and what is wrong with it.
    """
    try:
        sources = open_sources(config.data)
    except DataError as error:
        raise UserError(f"data: {error}") from None
    graph = _supernet_graph(config, len(sources.classes), sources.channels, sources.image_size)
    limits = {}
    for limit in config.budget.limits:
        budget = Budget(resource=config.budget.resource, limit=limit)
        try:
            check_feasible(graph, budget, config.width_rules)
        except ValueError as error:
            raise UserError(f"budget.limits: {error}") from None
        limits[limit] = budget.absolute(graph)
    training = SupernetTraining(
        data=config.data,
        supernet=config.supernet,
        optimizer=config.optimizer,
        pretrain=config.pretrain,
        seed=config.seed,
        device=config.device,
    )
    return Plan(
        config=config,
        supernet_training=training,
        supernet_key=content_key(_without_places(training), sources.fingerprint()),
        supernet_macs=graph.count_macs(),
        supernet_params=graph.count_params(),
        limits=limits,
        num_train=len(sources.train),
        num_validation=len(sources.validation),
        num_test=len(sources.test),
    )


def check_device(config: SweepConfig) -> None:
    """Check that the device asked for exists here, where the sweep runs on this machine.

    Raises:
        UserError: ``cuda`` without a GPU.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, but torch finds no GPU here; set device to auto or cpu")


def check_disk(home: Home, plan: Plan) -> None:
    """Check that the home folder can be written and has room for the sweep.

    Counts per trial the package (deploy and training form) and, per running trial, a checkpoint
    with weights and momenta twice (old and new).

    Raises:
        UserError: naming the folder, the room there is and the room needed.
    """
    try:
        home.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"home folder {home.root} cannot be created: {error.strerror}") from None
    if not os.access(home.root, os.W_OK):
        raise UserError(f"home folder {home.root} is not writable; set PAS_HOME to one that is")
    network = plan.supernet_params * _BYTES_PER_PARAM
    running = os.cpu_count() or 1
    need = 2 * network * plan.config.num_trials + 4 * network * (running + 1) + _SPARE_BYTES
    free = shutil.disk_usage(home.root).free
    if free < need:
        raise UserError(
            f"home folder {home.root} has {free // MIB} MiB free, the sweep needs about "
            f"{need // MIB} MiB; make room or set PAS_HOME to another disk"
        )


def describe(plan: Plan) -> dict[str, object]:
    """Return what ``--dry-run`` shows, as plain values."""
    config = plan.config
    return {
        "sweep_id": config.sweep_id,
        "supernet": config.supernet.name,
        "supernet_macs": plan.supernet_macs,
        "supernet_num_params": plan.supernet_params,
        "resource": config.budget.resource,
        "limits": {f"{limit:g}": absolute for limit, absolute in plan.limits.items()},
        "cells": [cell.name for cell in cells_of(config)],
        "num_trials": config.num_trials,
        "epochs_per_trial": config.search.epochs + config.finetune.epochs,
        "pretrain_epochs": config.pretrain.epochs,
        "train_images": plan.num_train,
        "validation_images": plan.num_validation,
        "test_images": plan.num_test,
    }


def supernet_cost(config: SweepConfig, resource: str) -> int:
    """Return the supernet's cost in ``macs`` or ``num_params`` (deploy form, one image).

    Raises:
        UserError: the data folder is not as it was.
    """
    try:
        sources = open_sources(config.data)
    except DataError as error:
        raise UserError(f"data: {error}") from None
    graph = _supernet_graph(config, len(sources.classes), sources.channels, sources.image_size)
    cost: int = graph.count(resource)
    return cost


def _supernet_graph(config: SweepConfig, classes: int, channels: int, size: int) -> ChannelGraph:
    with torch.device("meta"):
        supernet = build_supernet(
            config.supernet.name, classes, channels, **config.supernet.options
        )
    return trace_channels(supernet, torch.empty((1, channels, size, size), device="meta"))


def _without_places(training: SupernetTraining) -> dict[str, object]:
    """Leave out what says where things are rather than what they are."""
    plain = dataclasses.asdict(training)
    for key in ("root", "workers", "memory_gib"):
        plain["data"].pop(key)
    return plain
