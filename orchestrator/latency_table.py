"""The latency table of a sweep: measured once when it is planned, kept in its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from rich.console import Console

from orchestrator.errors import UserError
from orchestrator.home import TABLE_FILE, Home, write_text
from orchestrator.preflight import Plan, check_budgets
from orchestrator.sections import LatencyConfig
from pas_trainer import read_latency_table
from search_space import (
    ChannelGraph,
    LatencyTable,
    graph_with_latency,
    measure_latency_table,
)
from search_space.latency_target import read_table
from search_space.operators import network_signature


def kept_table(folder: Path) -> Path:
    """Return where a sweep keeps its table."""
    return folder / TABLE_FILE


def plan_latency(
    plan: Plan, home: Home, folder: Path, console: Console, *, dry_run: bool = False
) -> Plan:
    """Return the plan with latencies, if any of its limits is on them, and check those limits.

    The table is the one kept in ``folder``, else the one that the sweep file names, else the one
    in the home folder's cache, else it is measured (not by a dry run, which leaves the plan as it
    is).

    Raises:
        UserError: the device is not there, a table cannot be used, or a limit cannot be met.
    """
    if not plan.config.budget.limits_latency:
        return plan
    table = _find_table(plan, home, folder)
    if table is None:
        if dry_run:
            return plan
        table = measure_table(plan, home, console)
    named = plan.config.latency.table is not None and not kept_table(folder).exists()
    graph = _with_table(plan.graph, table, "latency.table" if named else "latency")
    plan = dataclasses.replace(plan, graph=graph, latency_table=table)
    check_budgets(plan)
    return plan


def keep_table(plan: Plan, folder: Path) -> None:
    """Write the plan's table into the sweep's folder, unless there is one."""
    path = kept_table(folder)
    if plan.latency_table is not None and not path.exists():
        write_text(path, _of_network(plan.latency_table, plan.graph).to_json())


def latency_graph(graph: ChannelGraph, folder: Path) -> ChannelGraph:
    """Return the graph with the latencies of the table that a sweep keeps in its folder.

    Raises:
        UserError: the table cannot be read or belongs to another network.
    """
    return _with_table(graph, _read(kept_table(folder)))


def measure_table(plan: Plan, home: Home, console: Console) -> LatencyTable:
    """Measure what the home folder's cache has not yet, and tell the person who waits.

    Raises:
        UserError: the device is not there, or an operator does not run on it.
    """
    latency = plan.config.latency
    console.print(
        f"latency: measuring {len(plan.graph.operators)} operators on {latency.device}, "
        f"about {latency.seconds:g} s",
        highlight=False,
    )
    try:
        with torch.random.fork_rng(devices=[]), console.status("latency") as status:
            supernet = plan.config.supernet
            table = measure_latency_table(
                plan.graph,
                plan.task.build(supernet.name, supernet.options, plan.about),
                latency.target,
                cache_folder=home.latency,
                seconds=latency.seconds,
                progress=lambda done, of: status.update(f"latency: round {done + 1} of {of}"),
            )
    except ValueError as error:
        raise UserError(f"latency: {error}") from None
    whole = _with_table(plan.graph, table).count("latency_ms")
    console.print(f"latency: {whole:.4g} ms for the supernet on {table.device}", highlight=False)
    return table


def write_table_file(plan: Plan, table: LatencyTable, out: Path) -> None:
    """Write what a table knows of the plan's supernet, for ``latency.table`` of a sweep file.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write_text(out, _of_network(table, plan.graph).to_json())
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None


def _find_table(plan: Plan, home: Home, folder: Path) -> LatencyTable | None:
    """Return the table that need not be measured."""
    kept = kept_table(folder)
    if kept.exists():
        return _read(kept)
    latency = plan.config.latency
    if latency.table is not None:
        table = _read(Path(latency.table), "latency.table: ")
        _check_measured_so(latency, table)
        return table
    check_target(latency)
    try:
        table = read_table(home.latency, latency.target)
    except ValueError as error:
        raise UserError(f"latency: {error}") from None
    return table if _is_complete(plan.graph, table) else None


def _check_measured_so(latency: LatencyConfig, table: LatencyTable) -> None:
    """Check that a table was measured as the sweep file has it, in all that this says."""
    said = latency.model_fields_set
    for name in latency.target.differing(table.device):
        if name in said:
            raise UserError(
                f"latency.{name} is {getattr(latency, name)}, but latency.table was measured on "
                f"{table.device}; take one of them out, or measure anew with 'pas latency'"
            )


def check_target(latency: LatencyConfig) -> None:
    """Check that the device to measure on is here.

    Raises:
        UserError: it is not, or a setting is out of range.
    """
    try:
        latency.target.check()
    except ValueError as error:
        raise UserError(
            f"latency: {error}; measure where it is, with 'pas latency FILE --out table.json', "
            "and name the file in latency.table"
        ) from None


def _read(path: Path, where: str = "") -> LatencyTable:
    try:
        return read_latency_table(path)
    except ValueError as error:
        raise UserError(f"{where}{error}") from None


def _with_table(graph: ChannelGraph, table: LatencyTable, where: str = "latency") -> ChannelGraph:
    if not _is_complete(graph, table):
        missing = sum(o.signature not in table.grids for o in graph.operators)
        raise UserError(
            f"{where}: the table measured on {table.device} is of another network: it lacks "
            f"{missing} of {len(graph.operators)} operators, or the time of the whole; write one "
            "with 'pas latency FILE --out table.json'"
        )
    return graph_with_latency(graph, table)


def _is_complete(graph: ChannelGraph, table: LatencyTable) -> bool:
    known = {operator.signature for operator in graph.operators} <= table.grids.keys()
    return known and network_signature(graph.operators) in table.factors


def _of_network(table: LatencyTable, graph: ChannelGraph) -> LatencyTable:
    """Leave out what a table holds of other networks."""
    network = network_signature(graph.operators)
    grids = {o.signature: table.grids[o.signature] for o in graph.operators}
    return LatencyTable(table.device, grids, {network: table.factors[network]})
