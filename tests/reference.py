"""The networks' layers in plain numpy, float64: what MXNet's outputs and gradients must equal.

Written from the layers' definitions; of MXNet's it takes only the graph (and tests/golden pins
what is in that). A layer is a function of its attributes and inputs that returns its output and
``back``, which turns the output's gradient into those of the inputs. Maps are (N, C, H, W).
"""

import ast
import json

import numpy as np


def run(symbol, values, layers=None):
    """Outputs and gradients of a network that ends in SoftmaxOutput.

    Args:
        symbol: a graph of the layers below, with one output.
        values: argument name -> array.
        layers: by operator; default: LAYERS.

    Returns:
        The (N, classes) probabilities; by argument, the gradients of the cross-entropy summed over
        the batch, which is what SoftmaxOutput differentiates; and the narrowest margin, relative
        to its layer's largest value, by which a relu was on or off or a maximum was won. Where
        rounding is wider than that margin, another implementation may decide otherwise, and
        gradients cannot be compared.
    """
    nodes = json.loads(symbol.tojson())["nodes"]
    states = set(symbol.list_auxiliary_states())  # which training changes but does not read
    outputs, backs, margin = [], [], np.inf  # a list of arrays for each node
    for node in nodes:
        name, back = node["name"], None
        if node["op"] == "null":
            output = 0.0 if name in states else np.asarray(values[name], np.float64)
        else:
            inputs = [outputs[source][index] for source, index, *_ in node["inputs"]]
            output, back = (layers or LAYERS)[node["op"]](_attributes(node), *inputs)
            margin = min(margin, _margin(_attributes(node), inputs[0]))
        outputs.append(output if isinstance(output, list) else [output])
        backs.append(back)

    gradients = [[0.0] * len(output) for output in outputs]
    for node, back, i in reversed(list(zip(nodes, backs, range(len(nodes))))):
        if back is not None:
            for (source, index, *_), gradient in zip(node["inputs"], back(*gradients[i])):
                gradients[source][index] = gradients[source][index] + gradient
    arguments = {
        node["name"]: gradient
        for node, (gradient, *_) in zip(nodes, gradients)
        if not node["inputs"]
    }
    return outputs[-1][0], arguments, margin


def _margin(attrs, x):
    if attrs.get("act_type") in ("relu", "prelu", "rrelu"):
        return abs(x).min() / abs(x).max()
    if attrs.get("pool_type") == "max":
        windows = _windows(_fill(attrs, x), attrs["kernel"], attrs.get("stride", (1, 1)))
        second, first = np.sort(windows.reshape(*windows.shape[:4], -1))[..., -2:].T
        # Equals are what relu made of negative values, and so pass no gradient on.
        return np.where(first > second, first - second, np.inf).min() / abs(x).max()
    return np.inf


def _attributes(node):
    def value(text):
        try:
            return ast.literal_eval(text)
        except ValueError:  # a word
            return text

    return {key: value(text) for key, text in node.get("attrs", {}).items()}


def convolution(attrs, x, weight, bias):
    """Cross-correlation by im2col, one matrix product for each group."""
    groups, filters = attrs.get("num_group", 1), attrs["num_filter"]
    (ph, pw), stride = attrs.get("pad", (0, 0)), attrs.get("stride", (1, 1))
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    windows = _windows(padded, attrs["kernel"], stride)
    n, channels, oh, ow, kh, kw = windows.shape
    # (groups, N*OH*OW, C/groups*KH*KW) and (groups, filters/groups, C/groups*KH*KW)
    columns = windows.reshape(n, groups, channels // groups, oh, ow, kh, kw)
    columns = columns.transpose(1, 0, 3, 4, 2, 5, 6).reshape(groups, n * oh * ow, -1)
    kernels = weight.reshape(groups, filters // groups, -1)
    output = (columns @ kernels.transpose(0, 2, 1)).transpose(1, 0, 2).reshape(n, oh, ow, filters)
    output = output.transpose(0, 3, 1, 2) + bias.reshape(1, -1, 1, 1)

    def back(gradient):
        rows = gradient.transpose(0, 2, 3, 1).reshape(n * oh * ow, groups, -1).transpose(1, 0, 2)
        d_weight = (rows.transpose(0, 2, 1) @ columns).reshape(weight.shape)
        d_windows = (rows @ kernels).reshape(groups, n, oh, ow, channels // groups, kh, kw)
        d_windows = d_windows.transpose(1, 0, 4, 2, 3, 5, 6).reshape(windows.shape)
        d_padded = _scatter(d_windows, padded.shape, stride)
        height, width = x.shape[2:]
        d_x = d_padded[:, :, ph : ph + height, pw : pw + width]
        return d_x, d_weight, gradient.sum((0, 2, 3))

    return output, back


def pooling(attrs, x):
    """Maximum (the first of equals gets the gradient) or average."""
    stride, kernel = attrs.get("stride", (1, 1)), attrs["kernel"]
    (ph, pw), (height, width) = attrs.get("pad", (0, 0)), x.shape[2:]
    x = _fill(attrs, np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw))))  # an average counts the zeros
    windows = _windows(x, kernel, stride)
    flat = windows.reshape(*windows.shape[:4], -1)
    if attrs["pool_type"] == "max":
        output = flat.max(-1)
        share = np.arange(flat.shape[-1]) == flat.argmax(-1)[..., None]
    else:
        output = flat.mean(-1)
        share = np.full(flat.shape, 1 / flat.shape[-1])

    def back(gradient):
        d_windows = (share * gradient[..., None]).reshape(windows.shape)
        d_x = _scatter(d_windows, x.shape, stride)
        return (d_x[:, :, ph : ph + height, pw : pw + width],)

    return output, back


def _fill(attrs, x):
    """Under the 'full' convention sizes round up, so the last windows reach past the map."""
    if attrs.get("pooling_convention") != "full":
        return x
    sizes = zip(x.shape[2:], attrs["kernel"], attrs["stride"])
    beyond = [(0, -(size - kernel) % stride) for size, kernel, stride in sizes]
    return np.pad(x, [(0, 0), (0, 0), *beyond], "constant", constant_values=-np.inf)


def _windows(x, kernel, stride):
    """A view (N, C, OH, OW, KH, KW) of every position of the kernel on ``x``."""
    n, c, h, w = x.shape
    (kh, kw), (sh, sw) = kernel, stride
    shape = n, c, (h - kh) // sh + 1, (w - kw) // sw + 1, kh, kw
    bn, bc, bh, bw = x.strides
    return np.lib.stride_tricks.as_strided(x, shape, (bn, bc, bh * sh, bw * sw, bh, bw))


def _scatter(windows, shape, stride):
    """The transpose of :func:`_windows`: add every window back where it was read."""
    _, _, oh, ow, kh, kw = windows.shape
    x = np.zeros(shape)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, i + oh * stride[0], stride[0])
            columns = slice(j, j + ow * stride[1], stride[1])
            x[:, :, rows, columns] += windows[..., i, j]
    return x


def lrn(attrs, x):
    """x / (knorm + alpha / nsize * sum of x**2 over the neighbouring channels) ** beta."""
    nsize, alpha = attrs["nsize"], attrs.get("alpha", 1e-4)
    beta, factor = attrs.get("beta", 0.75), lrn_factor(attrs, x)

    def back(gradient):
        spread = _over_neighbours(gradient * x * factor ** (1 + 1 / beta), nsize)
        return (gradient * factor - 2 * alpha * beta / nsize * x * spread,)

    return x * factor, back


def lrn_factor(attrs, x):
    """What LRN multiplies (N, C, ...) with: values, and the first term of their gradient."""
    squares = _over_neighbours(x**2, attrs["nsize"])
    scale = attrs.get("knorm", 2) + attrs.get("alpha", 1e-4) / attrs["nsize"] * squares
    return scale ** -attrs.get("beta", 0.75)


def _over_neighbours(maps, nsize):
    """Sums over the channels that are at most (nsize - 1) // 2 away."""
    half, channels = (nsize - 1) // 2, maps.shape[1]
    sums = [maps[:, max(0, c - half) : c + half + 1].sum(axis=1) for c in range(channels)]
    return np.stack(sums, axis=1)


def batch_norm(attrs, x, gamma, beta, *_):
    """(x - mean) / sqrt(variance + eps) * gamma + beta, over all but the channels; in training."""
    assert attrs["fix_gamma"] is False
    axes, of_channels = tuple({0, *range(2, x.ndim)}), (1, -1) + (1,) * (x.ndim - 2)
    count = x.size / x.shape[1]
    centred = x - x.mean(axes, keepdims=True)
    scale = (centred**2).mean(axes, keepdims=True) + attrs.get("eps", 1e-3)
    normal, factor = centred / np.sqrt(scale), gamma.reshape(of_channels) / np.sqrt(scale)

    def back(gradient):
        d_gamma, d_beta = (gradient * normal).sum(axes), gradient.sum(axes)
        means = (d_beta.reshape(of_channels) + normal * d_gamma.reshape(of_channels)) / count
        return factor * (gradient - means), d_gamma, d_beta

    return normal * gamma.reshape(of_channels) + beta.reshape(of_channels), back


def activation(attrs, x):
    """relu, tanh or sigmoid."""
    if attrs["act_type"] == "relu":
        return np.maximum(x, 0), lambda gradient: (gradient * (x > 0),)
    if attrs["act_type"] == "sigmoid":
        output = 1 / (1 + np.exp(-x))
        return output, lambda gradient: (gradient * output * (1 - output),)
    output = {"tanh": np.tanh}[attrs["act_type"]](x)
    return output, lambda gradient: (gradient * (1 - output**2),)


def leaky_relu(attrs, x, *slopes):
    """elu: slope * (exp(x) - 1) below 0; prelu, rrelu: x times the channel's or their one slope."""
    if attrs["act_type"] == "elu":
        below = attrs["slope"] * np.exp(np.minimum(x, 0))
        output = np.where(x > 0, x, below - attrs["slope"])
        return output, lambda gradient: (gradient * np.where(x > 0, 1, below),)
    if attrs["act_type"] == "rrelu":
        assert attrs["lower_bound"] == attrs["upper_bound"], "random slopes cannot be compared"
        slopes = [np.array(attrs["lower_bound"])]
    slope = slopes[0].reshape((1, -1) + (1,) * (x.ndim - 2))
    factor = np.where(x > 0, 1, slope)

    def back(gradient):
        d_slope = (gradient * np.minimum(x, 0)).sum(tuple({0, *range(2, x.ndim)}))
        return gradient * factor, d_slope

    return x * factor, back


def slice_channel(attrs, x):
    """Equal parts of the channels."""
    parts = np.split(x, attrs["num_outputs"], axis=1)
    return parts, lambda *gradients: (np.concatenate(gradients, axis=1),)


def concat(attrs, *parts):
    """Side by side as channels."""
    assert attrs["dim"] == 1
    ends = np.cumsum([part.shape[1] for part in parts])[:-1]
    return np.concatenate(parts, axis=1), lambda gradient: np.split(gradient, ends, axis=1)


def pad(attrs, x):
    """Zeros around."""
    widths = np.reshape(attrs["pad_width"], (-1, 2))
    inside = tuple(slice(low, low + size) for (low, _), size in zip(widths, x.shape))
    return np.pad(x, widths), lambda gradient: (gradient[inside],)


def power(attrs, x):
    """x to the power of a number."""
    exponent = attrs["scalar"]
    return x**exponent, lambda gradient: (gradient * exponent * x ** (exponent - 1),)


def fully_connected(attrs, x, weight, bias):
    """x @ weight.T + bias, on (N, features)."""
    return x @ weight.T + bias, lambda g: (g @ weight, g.T @ x, g.sum(0))


def flatten(attrs, x):
    """(N, C, H, W) -> (N, C*H*W)."""
    return x.reshape(len(x), -1), lambda gradient: (gradient.reshape(x.shape),)


def dropout(attrs, x):
    """Nothing: only graphs of :func:`without_dropout` can be compared."""
    assert attrs["p"] == 0, "use without_dropout"
    return x, lambda gradient: (gradient,)


def softmax_output(attrs, x, label):
    """Softmax; its gradient is that of the cross-entropy with ``label``, whatever comes in."""
    power = np.exp(x - x.max(1, keepdims=True))
    output = power / power.sum(1, keepdims=True)
    wanted = np.arange(x.shape[1]) == label[:, None]
    return output, lambda _: (output - wanted, np.zeros_like(label))


def rounded(array):
    """To bfloat16, 8 significant bits, to nearest, ties to even."""
    mantissa, exponent = np.frexp(np.asarray(array, np.float64))
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent)


def of_bfloat16(layer):
    """A convolution or fully connected layer whose products are of such values."""

    def narrow(attrs, x, weight, bias):
        output, back = layer(attrs, rounded(x), rounded(weight), bias)
        return output, lambda gradient: back(rounded(gradient))

    return narrow


def output_and_gradients(layer, attrs, arrays, gradient):
    """Of one of the layers above, in float64: the output, and the gradients of ``arrays``."""
    output, back = layer(attrs, *(values.astype(np.float64) for values in arrays))
    return [output, *back(gradient.astype(np.float64))]


def draw(*shapes, magnitude=1.0):
    """Arrays of normal values, float32, always the same ones."""
    rng = np.random.RandomState(0)
    return [(rng.randn(*shape) * magnitude).astype(np.float32) for shape in shapes]


LAYERS = {
    "Convolution": convolution,
    "Pooling": pooling,
    "LRN": lrn,
    "Activation": activation,
    "FullyConnected": fully_connected,
    "Flatten": flatten,
    "Dropout": dropout,
    "SoftmaxOutput": softmax_output,
    "BatchNorm": batch_norm,
    "LeakyReLU": leaky_relu,
    "SliceChannel": slice_channel,
    "Concat": concat,
    "Pad": pad,
    "_power_scalar": power,
    "_plus_scalar": lambda attrs, x: (x + attrs["scalar"], lambda gradient: (gradient,)),
    "_mul_scalar": lambda attrs, x: (x * attrs["scalar"], lambda g: (g * attrs["scalar"],)),
    "elemwise_mul": lambda attrs, x, y: (x * y, lambda gradient: (gradient * y, gradient * x)),
}
OF_BFLOAT16 = {
    **LAYERS,
    "Convolution": of_bfloat16(convolution),
    "FullyConnected": of_bfloat16(fully_connected),
}
