"""What can be searched: supernets, their channel graphs and costs, budgets, hyper-parameters."""

from search_space.architecture import Architecture
from search_space.budget import (
    Budget,
    Limit,
    absolute_limit,
    check_feasible,
    fit_widths,
    keeps_limit,
    read_limit,
)
from search_space.channel_graph import (
    RESOURCES,
    Axis,
    BlockChannels,
    ChannelGraph,
    ChannelGroup,
    Layout,
    UnsupportedOp,
)
from search_space.constants import Constant
from search_space.copies import copy_network
from search_space.costs import Cost, Product, Width
from search_space.detectors import DETECTOR_SCOPES, detector_calls, trace_detector
from search_space.fitting import LOWEST_USE
from search_space.fuse import reparameterize
from search_space.hyperparameters import TUNABLE, FloatRange, check_tunable
from search_space.latency import LatencyCost, LatencyGrid, LatencyTable, graph_with_latency
from search_space.latency_measurement import measure_latency_table
from search_space.latency_target import LatencyTarget
from search_space.mask_rcnn import (
    MASK_RCNN_VARIANTS,
    TORCHVISION_DETECTORS,
    MaskRCNNVariant,
)
from search_space.mobileone import (
    MOBILEONE_VARIANTS,
    MobileOne,
    MobileOneBlock,
    MobileOneVariant,
)
from search_space.narrowing import narrow_graph
from search_space.operators import Operator
from search_space.reparam import PlainBlock, ReadParameter, ReparamBlock
from search_space.repvgg import REPVGG_VARIANTS, RepVGG, RepVGGBlock, RepVGGVariant
from search_space.resnet_generator import (
    RESNET_GENERATOR_VARIANTS,
    ResNetGenerator,
    ResNetGeneratorVariant,
)
from search_space.slicing import slice_network
from search_space.sources import find_attribute
from search_space.supernets import (
    SupernetConfig,
    build_supernet,
    build_supernet_on_meta,
    is_weights_file,
    supernet_names,
)
from search_space.trace import Example, trace_channels
from search_space.unet import UNET_VARIANTS, UNetGenerator, UNetVariant
from search_space.uniform import uniform_widths, widths_toward_uniform
from search_space.vgg import VGG_VARIANTS, ReparamVGG, VGGVariant
from search_space.width_rules import GroupRules, WidthRules

__all__ = [
    "DETECTOR_SCOPES",
    "LOWEST_USE",
    "MASK_RCNN_VARIANTS",
    "MOBILEONE_VARIANTS",
    "REPVGG_VARIANTS",
    "RESNET_GENERATOR_VARIANTS",
    "RESOURCES",
    "TORCHVISION_DETECTORS",
    "TUNABLE",
    "UNET_VARIANTS",
    "VGG_VARIANTS",
    "Architecture",
    "Axis",
    "BlockChannels",
    "Budget",
    "ChannelGraph",
    "ChannelGroup",
    "Constant",
    "Cost",
    "Example",
    "FloatRange",
    "GroupRules",
    "LatencyCost",
    "LatencyGrid",
    "LatencyTable",
    "LatencyTarget",
    "Layout",
    "Limit",
    "MaskRCNNVariant",
    "MobileOne",
    "MobileOneBlock",
    "MobileOneVariant",
    "Operator",
    "PlainBlock",
    "Product",
    "ReadParameter",
    "RepVGG",
    "RepVGGBlock",
    "RepVGGVariant",
    "ReparamBlock",
    "ReparamVGG",
    "ResNetGenerator",
    "ResNetGeneratorVariant",
    "SupernetConfig",
    "UNetGenerator",
    "UNetVariant",
    "UnsupportedOp",
    "VGGVariant",
    "Width",
    "WidthRules",
    "absolute_limit",
    "build_supernet",
    "build_supernet_on_meta",
    "check_feasible",
    "check_tunable",
    "copy_network",
    "detector_calls",
    "find_attribute",
    "fit_widths",
    "graph_with_latency",
    "is_weights_file",
    "keeps_limit",
    "measure_latency_table",
    "narrow_graph",
    "read_limit",
    "reparameterize",
    "slice_network",
    "supernet_names",
    "trace_channels",
    "trace_detector",
    "uniform_widths",
    "widths_toward_uniform",
]
