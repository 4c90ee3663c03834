"""The sweep file: one frozen tree, validated once, unknown keys refused.

Each component's settings are documented where the component lives (``pas_trainer``,
``search_space``); what concerns many trials is documented in :mod:`orchestrator.sections`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from orchestrator.sections import (
    BudgetConfig,
    LatencyConfig,
    ResourceConfig,
    SchedulerConfig,
    Section,
    StorageConfig,
    TrackingConfig,
    check_told_apart,
)
from pas_trainer import (
    CONTROLS,
    TASKS,
    ControlKind,
    DataConfig,
    FinetuneConfig,
    OptimizerConfig,
    PretrainConfig,
    SearchConfig,
    Task,
    TaskConfig,
    check_pretraining,
    content_key,
    make_task,
    plain_values,
    unset_additions,
)
from search_space import FloatRange, SupernetConfig, WidthRules, check_tunable


def _named(value: object) -> object:
    """Take a name alone for a section that has a name and options."""
    return {"name": value} if isinstance(value, str) else value


class SweepConfig(Section):
    """One sweep: budgets x strengths x trials, over one supernet and one data set."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    task: Annotated[TaskConfig, BeforeValidator(_named)] = TaskConfig()
    data: DataConfig
    supernet: SupernetConfig
    budget: BudgetConfig
    strengths: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    trials_per_cell: Annotated[int, Field(ge=1)] = 1
    max_failures_per_cell: Annotated[int, Field(ge=1)] = 5
    """After so many failed trials in a row a cell gets no more; the other cells go on."""
    controls: list[ControlKind] = Field(default_factory=list)
    """Networks to compare the trials with, trained alike on as much compute."""
    latency: LatencyConfig = LatencyConfig()
    width_rules: WidthRules = WidthRules()
    optimizer: OptimizerConfig = OptimizerConfig()
    pretrain: PretrainConfig = PretrainConfig()
    search: SearchConfig = SearchConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    hyperparameters: dict[str, FloatRange] = Field(default_factory=dict)
    resources: ResourceConfig = ResourceConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: StorageConfig = StorageConfig()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0

    @field_validator("controls", mode="before")
    @classmethod
    def _known_controls(cls, controls: object) -> object:
        if not (
            isinstance(controls, list)
            and all(control in CONTROLS for control in controls)
            and len(set(controls)) == len(controls)
        ):
            raise ValueError(
                f"{controls!r} is no list of controls; known, each at most once: "
                f"{', '.join(CONTROLS)}"
            )
        return controls

    @model_validator(mode="after")
    def _consistent(self) -> SweepConfig:
        if len(set(self.strengths)) < len(self.strengths):
            raise ValueError(f"strengths {self.strengths} name the same strength twice")
        check_told_apart("strengths", self.strengths)
        if self.budget.schedule == "annealed" and self.scheduler.name != "none":
            raise ValueError(
                f"scheduler.name is {self.scheduler.name}, but with budget.schedule annealed a "
                "trial that is stopped at one budget would end all tighter ones; set it to none"
            )
        workers = self.resources.workers_per_trial
        for section, batch in (
            ("optimizer", self.optimizer.batch_size),
            ("search", self.search.batch_size),
        ):
            if batch is not None and batch % workers:
                raise ValueError(
                    f"{section}.batch_size is {batch}, which {workers} workers "
                    f"(resources.workers_per_trial) cannot share equally; set it to a multiple"
                )
        if self.task.name in TASKS:  # one of the user's own is imported when the sweep is planned
            self.check_task()
        check_tunable(self.hyperparameters)
        check_pretraining(self.supernet, self.pretrain)
        return self

    def check_task(self) -> Task:
        """Return the task, once data and workers are such as it can use.

        Raises:
            ValueError: it cannot be made, or they are not; one sentence.
        """
        task = make_task(self.task)
        task.check_data(self.data)
        workers = self.resources.workers_per_trial
        if workers > 1 and not task.shares_batches:
            raise ValueError(
                f"resources.workers_per_trial is {workers}, but task {self.task.name} trains a "
                "network with one worker; set it to 1"
            )
        return task

    @property
    def imports(self) -> list[str]:
        """What it names of the user's own code: ``import:package.module:name``."""
        named = [self.supernet.name, self.task.name, *self.task.options.values()]
        return [name for name in named if isinstance(name, str) and name.startswith("import:")]

    def deciding(self) -> dict[str, Any]:
        """Return what decides the result of a trial, as plain values.

        Resources and servers do not; how many trials, limits and strengths there are does not
        either, so that a sweep can grow (only the limits of annealed budgets do: each network is
        searched in the one before).
        """
        decides = self.model_dump(
            mode="json",
            exclude={
                *("name", "resources", "tracking", "storage", "controls"),
                *("trials_per_cell", "max_failures_per_cell"),
            },
        )
        if self.budget.limits_latency:
            decides["latency"].pop("seconds")
        else:
            decides.pop("latency")
        if self.budget.schedule == "separate":
            decides["budget"].pop("limits")
        decides.pop("strengths")
        decides["width_rules"] = plain_values(self.width_rules)
        if not self.task.options:
            decides["task"] = self.task.name
        for section in ("data", "optimizer", "search"):
            for name in unset_additions(getattr(self, section)):
                decides[section].pop(name)
        decides["data"].pop("workers")
        decides["data"].pop("memory_gib")
        return decides

    @property
    def sweep_id(self) -> str:
        """The name and a hash of what decides the trials."""
        return f"{self.name}-{content_key(self.deciding())[:8]}"

    @property
    def num_trials(self) -> int:
        """Trials of the whole sweep, controls not among them."""
        return len(self.budget.limits) * len(self.strengths) * self.trials_per_cell
