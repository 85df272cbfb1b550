"""The forms of MXNet's operators in PyTorch: same outputs and gradients, for the same weights.

- PyTorch's LRN divides alpha by the window, as MXNet's does. An even window is refused: MXNet's is
  then one channel narrower than its divisor.
- Pooling 'full' is ``ceil_mode``. PyTorch drops a last window that begins beyond the map and its
  first padding; MXNet does not, so such a pooling is refused.
- PyTorch's batch norm keeps the unbiased variance, n / (n - 1) of MXNet's, when it trains on.
"""

import ast
from typing import List, NamedTuple, Sequence, Tuple

from common.graph.graph import Node

SOFTMAX = "SoftmaxOutput", "softmax"
_NO_MATTER = {"cudnn_tune", "cudnn_off", "workspace", "num_filter", "num_hidden", "num_args"}
_CONV_OR_FC = "weight", "bias"
_BATCH_NORM = "weight", "bias", "running_mean", "running_var"


class Form(NamedTuple):
    """An operator in PyTorch: an expression of its inputs, {0} and so on, and of its {layer}."""

    expression: str
    layer: str = ""  # its constructor, if it has weights
    weights: Sequence[str] = ()  # the layer's names of the inputs after the first


def find(node: Node, shapes: List[Tuple[int, ...]]) -> Form:
    """The form of an operator whose inputs have ``shapes``.

    ValueError says for which setting there is none. KeyError if one that it needs is missing.
    """
    if node.op not in _FORMS:
        raise ValueError("unknown operator")
    said = {key: _value(text) for key, text in node.settings.items() if key not in _NO_MATTER}
    form = _FORMS[node.op](said, shapes)
    left = [f"{key}={value}" for key, value in said.items() if value]
    if left:
        raise ValueError(", ".join(left))
    if form.weights and not all(one.node.is_variable for one in node.inputs[1:]):
        if node.op != "FullyConnected" or len(shapes[0]) != 2:
            raise ValueError("its weights are computed")
        return Form("F.linear({all})")
    return form


def _value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _one_of(said, key, default, *others):
    value = said.pop(key, default)
    if value not in (default, *others):
        raise ValueError(f"{key}={value}")
    return value


def _sides(said, key, default):
    """A setting of both directions: one number if they agree."""
    value = said.pop(key, None) or (default, default)
    if len(value) != 2:
        raise ValueError(f"{key}={value}")
    return value[0] if value[0] == value[1] else value


def _options(**values):
    """Those that differ from PyTorch's defaults."""
    defaults = {"padding": 0, "dilation": 1, "groups": 1, "ceil_mode": False}
    return "".join(f", {k}={v}" for k, v in values.items() if v != defaults.get(k, True))


# Each form takes out of ``said`` the settings that it heeds; what is left is refused.


def _convolution(said, shapes):
    groups, bias = said.pop("num_group", 1), not said.pop("no_bias", False)
    _one_of(said, "layout", None, "NCHW")
    kernel, stride = (_sides(said, key, 1) for key in ("kernel", "stride"))
    pad, dilation = _sides(said, "pad", 0), _sides(said, "dilate", 1)
    more = _options(padding=pad, dilation=dilation, groups=groups, bias=bias)
    stride = "" if stride == 1 else f", stride={stride}"
    filters, channels = shapes[1][:2]
    layer = f"nn.Conv2d({channels * groups}, {filters}, {kernel}{stride}{more})"
    return Form("{layer}({0})", layer, _CONV_OR_FC[: 1 + bias])


def _fully_connected(said, shapes):
    bias, flat = not said.pop("no_bias", False), said.pop("flatten", True)
    x = "{0}.flatten(1)" if flat and len(shapes[0]) > 2 else "{0}"
    units, features = shapes[1]
    layer = f"nn.Linear({features}, {units}{_options(bias=bias)})"
    return Form(f"{{layer}}({x})", layer, _CONV_OR_FC[: 1 + bias])


def _activation(said, _shapes):
    return Form(f"{{0}}.{_one_of(said, 'act_type', 'relu', 'tanh', 'sigmoid')}()")


def _leaky_relu(said, shapes):
    kind = _one_of(said, "act_type", "leaky", "elu", "prelu", "rrelu", "gelu")
    slope = said.pop("slope", 0.25)
    low, high = said.pop("lower_bound", 0.125), said.pop("upper_bound", 0.334)
    if kind == "prelu":
        return Form("{layer}({0})", f"nn.PReLU({shapes[1][0]})", ("weight",))
    if kind == "rrelu":
        return Form(f"F.rrelu({{0}}, {low}, {high}, self.training)")
    if kind == "gelu":
        return Form("F.gelu({0})")
    return Form(f"F.{'elu' if kind == 'elu' else 'leaky_relu'}({{0}}, {slope})")


def _batch_norm(said, shapes):
    _one_of(said, "axis", 1)
    if said.pop("fix_gamma", True):
        raise ValueError("fix_gamma=True")
    kind = {2: "1d", 4: "2d"}[len(shapes[0])]
    momentum = f"{1 - said.pop('momentum', 0.9):g}"
    eps = said.pop("eps", 1e-3)
    layer = f"nn.BatchNorm{kind}({shapes[1][0]}, eps={eps}, momentum={momentum})"
    return Form("{layer}({0})", layer, _BATCH_NORM)


def _lrn(said, _shapes):
    size = said.pop("nsize")
    if size % 2 == 0:
        raise ValueError(f"nsize={size}")
    alpha, beta, k = said.pop("alpha", 1e-4), said.pop("beta", 0.75), said.pop("knorm", 2)
    return Form(f"F.local_response_norm({{0}}, {size}, alpha={alpha}, beta={beta}, k={k})")


def _pooling(said, shapes):
    kind = _one_of(said, "pool_type", "max", "avg")
    full = _one_of(said, "pooling_convention", "valid", "full") == "full"
    windows = said.get("kernel") or (), said.get("stride") or (1, 1), said.get("pad") or (0, 0)
    kernel, stride, pad = (
        _sides(said, k, n) for k, n in (("kernel", 1), ("stride", 1), ("pad", 0))
    )
    for side, window, step, zeros in zip(shapes[0][2:], *windows):
        if full and (
            kind == "avg" or -(-(side + 2 * zeros - window) // step) * step >= side + zeros
        ):
            raise ValueError("pooling_convention=full, with averages or a window beyond the map")
    more = _options(padding=pad, ceil_mode=full)
    if kind == "avg":
        more += _options(count_include_pad=said.pop("count_include_pad", True))
    return Form(f"F.{kind}_pool2d({{0}}, {kernel}, stride={stride}{more})")


def _pad(said, _shapes):
    _one_of(said, "mode", "constant")
    widths = said.pop("pad_width")
    pairs = [widths[i : i + 2] for i in range(0, len(widths), 2)]
    last_first = [n for pair in reversed(pairs[2:]) for n in pair]
    if any(widths[:4]):
        raise ValueError(f"pad_width={widths}")
    return Form(f"F.pad({{0}}, {tuple(last_first)}, value={said.pop('constant_value', 0)})")


def _dropout(said, _shapes):
    _one_of(said, "mode", "training")
    return Form(f"F.dropout({{0}}, {said.pop('p', 0.5)}, self.training)")


def _slice_channel(said, _shapes):
    return Form(f"{{0}}.chunk({said.pop('num_outputs')}, {said.pop('axis', 1)})")


def _softmax(said, _shapes):
    """The module gives the scores before it; a loss has its own factor and its own exceptions."""
    for key in ("grad_scale", "ignore_label", "normalization"):
        said.pop(key, None)
    _one_of(said, "axis", -1, 1)
    return Form("{0}")


def _as(expression):
    return lambda _said, _shapes: Form(expression)


def _with_scalar(sign):
    return lambda said, _shapes: Form(f"{{0}} {sign} {said.pop('scalar')}")


_FORMS = {
    **dict.fromkeys(SOFTMAX, _softmax),
    "Activation": _activation,
    "BatchNorm": _batch_norm,
    "Concat": lambda said, _shapes: Form(f"torch.cat([{{all}}], {said.pop('dim', 1)})"),
    "Convolution": _convolution,
    "Dropout": _dropout,
    "Flatten": _as("{0}.flatten(1)"),
    "FullyConnected": _fully_connected,
    "LRN": _lrn,
    "LeakyReLU": _leaky_relu,
    "Pad": _pad,
    "Pooling": _pooling,
    "SliceChannel": _slice_channel,
    "_mul_scalar": _with_scalar("*"),
    "_plus_scalar": _with_scalar("+"),
    "_power_scalar": _with_scalar("**"),
    "elemwise_add": _as("{0} + {1}"),
    "elemwise_div": _as("{0} / {1}"),
    "elemwise_mul": _as("{0} * {1}"),
    "exp": _as("{0}.exp()"),
    "sqrt": _as("{0}.sqrt()"),
}
