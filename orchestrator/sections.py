"""Sections of the sweep file about many trials: budgets, resources, scheduler, servers, storage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from search_space import Budget, ChannelGraph, LatencyTarget, Limit, read_limit

_S3_PLACE = r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}(/[^/]+)*/?"
"""Bucket and prefix; two slashes in a row would make other keys than folders have."""


class Section(BaseModel):
    """Frozen; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _number_or_text(value: object) -> object:
    is_limit = isinstance(value, int | float | str) and not isinstance(value, bool)
    if not is_limit:
        raise ValueError(f"{value!r} is no limit; write a number, or text with a unit")
    return value


_Limit = Annotated[Limit, BeforeValidator(_number_or_text)]


def check_told_apart(field: str, numbers: Sequence[float]) -> None:
    """Check that numbers differ as they are written in the names of cells.

    Raises:
        ValueError: two of them do not; ``field`` says what they are.
    """
    names: dict[str, float] = {}
    for number in numbers:
        other = names.setdefault(f"{number:g}", number)
        if other != number:
            raise ValueError(
                f"{field} {other!r} and {number!r} differ by less than the six digits by which "
                "cells are named; leave one of them out"
            )


class BudgetConfig(Section):
    """Which resources are limited, and to what."""

    resource: str = "macs"
    """``macs``, ``num_params``, ``activation_bytes`` or ``latency_ms``, of the deploy form."""
    limits: list[_Limit] = Field(min_length=1)
    """Each at most 1: a share of the supernet's cost; above 1, or text with a unit such as
    ``0.8 ms`` or ``300 M``: absolute."""
    also: dict[str, _Limit] = {}
    """Limits on further resources that every trial keeps as well."""
    schedule: Literal["separate", "annealed"] = "separate"
    """``separate``: every trial searches from the supernet, at one budget. ``annealed``: a trial
    at the loosest budget goes on to the tighter ones, each network found in the one before; see
    :mod:`pas_trainer.annealed`."""

    @model_validator(mode="after")
    def _known_and_positive(self) -> BudgetConfig:
        Budget(resource=self.resource, limit=1.0, also=self.also)
        if len(set(self.numbers)) < len(self.limits):
            raise ValueError(f"limits {self.limits} name the same limit twice")
        check_told_apart("limits", self.numbers)
        return self

    @property
    def numbers(self) -> list[float]:
        """The limits without their units, which name cells; milliseconds, bytes or counts."""
        return [read_limit("limits has", limit, self.resource)[0] for limit in self.limits]

    @property
    def limits_latency(self) -> bool:
        """Whether any limit is on latency, which needs a measured table."""
        return "latency_ms" in {self.resource, *self.also}

    def absolute_limits(self, graph: ChannelGraph) -> dict[float, float]:
        """Limits in units of the resource, by the number that names their cells."""
        return {number: self.budget(number).absolute(graph) for number in self.numbers}

    def budget(self, number: float) -> Budget:
        """Budget of the cells that are named by this number."""
        limit = self.limits[self.numbers.index(number)]
        return Budget(resource=self.resource, limit=limit, also=self.also)


class LatencyConfig(Section):
    """What ``latency_ms`` is measured on, if a limit is on it; once, when the sweep is planned."""

    device: str = "cpu"
    """torch's name: ``cpu``, ``cuda``, ``cuda:1``."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads."""
    batch_size: Annotated[int, Field(ge=1)] = 1
    """Images per pass; limits are on the time of the whole batch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of weights and activations."""
    channels_last: bool = False
    """Whether images lie in memory with the channels innermost."""
    seconds: Annotated[float, Field(gt=0)] = 60
    """How long measuring may take, roughly."""
    table: str | None = None
    """File that ``pas latency`` wrote on the target device; nothing is measured then."""

    @property
    def target(self) -> LatencyTarget:
        """What to measure on."""
        return LatencyTarget(**self.model_dump(exclude={"seconds", "table"}))


_Price = Annotated[float, Field(ge=0)]


class PriceConfig(Section):
    """What resources cost, in any one currency."""

    cpu_hour: _Price | None = None
    """One CPU for an hour."""
    gpu_hour: _Price | None = None
    """One GPU for an hour."""
    currency: Annotated[str, Field(max_length=8)] = ""
    """Shown behind amounts."""

    @model_validator(mode="after")
    def _not_empty(self) -> PriceConfig:
        if self.cpu_hour is None and self.gpu_hour is None:
            raise ValueError("names no price; set cpu_hour, gpu_hour or both")
        return self


class ResourceConfig(Section):
    """What each trial may use; changing it resumes the same sweep."""

    cpus_per_trial: Annotated[float, Field(gt=0)] = 1
    gpus_per_trial: Annotated[float, Field(ge=0)] = 0
    """Fractions share a GPU."""
    workers_per_trial: Annotated[int, Field(ge=1)] = 1
    """Processes that train one trial together, each on its share of every batch and with its
    share of the trial's CPUs and GPUs."""
    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = None
    """At most so many trials at once; ``None``: as many as there is room for."""
    wait_for_nodes_s: Annotated[float, Field(ge=0)] = 0
    """How long to wait for Ray's autoscaler to bring room for a first trial (with several workers
    per trial: for ``max_concurrent_trials``). Above 0, so many trials also wait for room while the
    sweep runs, which is what the autoscaler goes by."""
    prices: PriceConfig | None = None
    """``None``: what trials cost is not told."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> ResourceConfig:
        gpus, workers = self.gpus_per_trial, self.workers_per_trial
        if workers > 1 and gpus % workers:
            raise ValueError(
                f"gpus_per_trial is {gpus:g}, which gives {workers} workers no whole GPU each; "
                f"set it to 0 or a multiple of {workers}"
            )
        return self

    @model_validator(mode="after")
    def _gpus_have_a_price(self) -> ResourceConfig:
        if self.gpus_per_trial and self.prices and self.prices.gpu_hour is None:
            raise ValueError(
                f"gpus_per_trial is {self.gpus_per_trial:g}, but prices has no gpu_hour; set it "
                "(to 0 if GPUs cost nothing)"
            )
        return self

    @property
    def per_worker(self) -> dict[str, float]:
        """What one worker has, in Ray's words."""
        share = 1 / self.workers_per_trial
        return {"CPU": self.cpus_per_trial * share, "GPU": self.gpus_per_trial * share}


class SchedulerConfig(Section):
    """Early stopping of trials that fall behind others of their own cell."""

    name: Literal["none", "asha", "median"] = "none"
    """``asha``: of those that reach a rung, one in ``reduction_factor`` goes on. ``median``: who is
    never better than the median of the others' running means is stopped."""
    grace_epochs: Annotated[int, Field(ge=1)] = 3
    """Fine-tuning epochs before a trial can be stopped."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3
    """One of so many trials goes on at each rung."""


class TrackingConfig(Section):
    """Where MLflow keeps runs and models."""

    uri: str | None = None
    """``None``: SQLite in the home folder; ``http(s)://``: a server. Credentials belong in
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, not here."""

    @field_validator("uri")
    @classmethod
    def _no_credentials(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        scheme, _, rest = uri.partition("://")
        if scheme not in {"http", "https", "sqlite"}:
            raise ValueError("must start with http://, https:// or sqlite://")
        if scheme == "sqlite" and not re.fullmatch(r"/[^:].*", rest):
            raise ValueError(f"is {uri!r}; write sqlite:///FILE, or null for the home folder's")
        if scheme != "sqlite" and "@" in rest:
            raise ValueError(
                "must not hold credentials; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD instead"
            )
        return uri


class StorageConfig(Section):
    """Where checkpoints and searched networks are kept."""

    uri: str | None = None
    """``None``: the home folder, which every node must see under the same path;
    ``s3://bucket/prefix``: an object store, which is all that nodes share. Endpoint and credentials
    come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID...)."""
    keep: Literal["front", "all"] = "front"
    """Whose weights are kept: those of the front's members and of controls, or all."""

    @field_validator("uri")
    @classmethod
    def _address(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        scheme, _, rest = uri.partition("://")
        if "@" in rest.split("/")[0]:
            raise ValueError(
                "must not hold credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
            )
        if scheme != "s3" or not re.fullmatch(_S3_PLACE, rest):
            raise ValueError(f"is {uri!r}; write s3://bucket/prefix, or null for the home folder")
        return uri.rstrip("/")
