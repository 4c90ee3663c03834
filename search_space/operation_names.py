"""Names of operations by what they do to channels: functions, methods, classes of modules.

Trailing underscores and, where a rule serves all of them, ``1d``, ``2d`` and ``3d`` are left out.
"""

from __future__ import annotations

from torch import fx, nn

ELEMENTWISE = frozenset(
    """
abs add addcdiv addcmul alpha_dropout bernoulli bfloat16 celu ceil clamp clamp_max clamp_min clip
cos cpu cuda div double dropout dropout1d dropout2d dropout3d elu eq erf
exp exp2 expm1 fake_quantize feature_alpha_dropout feature_dropout float floor floor_divide
floordiv fmod full_like ge gelu gt half hardshrink hardsigmoid hardswish hardtanh heaviside iadd
imul isub itruediv le leaky_relu lerp log log10 log1p log2 logical_and logical_not logical_or
logit logsigmoid lt masked_fill maximum minimum mish mod mul multiply nan_to_num ne neg ones_like
pos pow rand_like randn_like reciprocal relu relu6 remainder requires_grad round rrelu rsqrt rsub
selu sigmoid sign silu sin softplus softshrink softsign sqrt square stochastic_depth sub subtract
tan tanh tanhshrink threshold true_divide truediv trunc type where xlogy zeros_like
Identity Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
CELU ELU GELU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid Mish ReLU ReLU6 RReLU
SELU Sigmoid SiLU Softplus Softshrink Softsign Tanh Tanhshrink Threshold
""".split()  # noqa: SIM905 - as long as a list would be
)
"""Each element depends on the elements at its place only."""

LIKE_FIRST = frozenset({"to", "type_as"})
"""The first argument, in the type and on the device of a second, of which nothing else counts."""

MOVEMENT = frozenset(
    """
atleast_3d cat channel_shuffle chunk clone concat concatenate contiguous detach dsplit expand
expand_as flatten flip
getattr getitem hsplit index_select moveaxis movedim narrow permute pixel_shuffle pixel_unshuffle
ravel repeat repeat_interleave reshape reshape_as rot90 select split split_with_sizes squeeze
stack swapaxes swapdims t tensor_split tile transpose unbind unflatten unsqueeze view view_as
vsplit ChannelShuffle Flatten PixelShuffle PixelUnshuffle Unflatten
""".split()  # noqa: SIM905 - as long as a list would be
)
"""Elements only change places."""

SPATIAL = frozenset(
    """
adaptive_avg_pool adaptive_max_pool avg_pool fractional_max_pool interpolate lp_pool max_pool
max_unpool upsample upsample_bilinear upsample_nearest AdaptiveAvgPool AdaptiveMaxPool AvgPool
LPPool MaxPool ReflectionPad ReplicationPad CircularPad Upsample UpsamplingBilinear
UpsamplingNearest
""".split()  # noqa: SIM905 - as long as a list would be
)
"""Works on height and width, each channel by itself."""

REDUCING = frozenset(
    """
all amax amin any argmax argmin logsumexp max mean median min norm nanmean nansum prod std
std_mean sum var var_mean
""".split()  # noqa: SIM905 - as long as a list would be
)
"""Sums, means and extremes over some dimensions."""

ALONG_ONE_DIM = frozenset(
    "cumprod cumsum log_softmax normalize softmax softmin LogSoftmax Softmax Softmin".split()  # noqa: SIM905 - as long as a list would be
)
"""Elements along one dimension depend on each other."""

NEW = frozenset(
    "empty_like item new_empty new_full new_ones new_tensor new_zeros".split()  # noqa: SIM905 - as long as a list would be
)
"""Makes a tensor that holds nothing of its argument."""

COUNTS_ON_WIDTHS = frozenset(
    """
    channel_shuffle chunk expand getitem hsplit narrow pixel_shuffle pixel_unshuffle repeat
    repeat_interleave reshape roll select split split_with_sizes tensor_split tile unbind unflatten
    view vsplit
    """.split()  # noqa: SIM905 - as long as a list would be
)
"""Operations whose arguments may be numbers of channels: a second slice tells luck from truth."""


def name_of(node: fx.Node, module: nn.Module | None) -> str:
    """Return the name an operation's rule is filed under."""
    if module is not None:
        return type(module).__name__
    if node.op == "call_method":
        return str(node.target).rstrip("_")
    return str(getattr(node.target, "__name__", node.target)).rstrip("_")
