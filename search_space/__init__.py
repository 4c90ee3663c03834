"""What can be searched: supernets, their channel graphs and costs, budgets, hyper-parameters."""

from search_space.budget import LOWEST_USE, Budget, WidthRules, check_feasible, fit_widths
from search_space.channel_graph import (
    RESOURCES,
    ChannelGraph,
    ChannelGroup,
    Layer,
    UnsupportedOp,
)
from search_space.hyperparameters import TUNABLE, FloatRange, check_tunable
from search_space.repvgg import REPVGG_VARIANTS, PlainBlock, RepVGG, RepVGGBlock, RepVGGVariant
from search_space.supernets import (
    Architecture,
    SupernetConfig,
    build_architecture,
    build_supernet,
    supernet_names,
)
from search_space.trace import trace_channels

__all__ = [
    "LOWEST_USE",
    "REPVGG_VARIANTS",
    "RESOURCES",
    "TUNABLE",
    "Architecture",
    "Budget",
    "ChannelGraph",
    "ChannelGroup",
    "FloatRange",
    "Layer",
    "PlainBlock",
    "RepVGG",
    "RepVGGBlock",
    "RepVGGVariant",
    "SupernetConfig",
    "UnsupportedOp",
    "WidthRules",
    "build_architecture",
    "build_supernet",
    "check_feasible",
    "check_tunable",
    "fit_widths",
    "supernet_names",
    "trace_channels",
]
