"""A network of two columns, each on a device of its own, as on the two GPUs of 2012.

:func:`in_columns` puts each node into a group, MXNet's attribute ``ctx_group``; ``group2ctxs`` then
says which device a group is on. A convolution in two groups becomes one a column, which reads its
own column. Any other layer with weights reads both columns, and each computes half of its outputs.
LRN over all channels reads the nearest ones of the other column. Weights are halved with the
outputs, and each half stays on its device.

The new symbol is for binding only. It computes what the plain one does; :func:`split` and
:func:`merge` turn the plain one's weights into its own and back, exactly. Save the plain one.
"""

from typing import Dict, Iterable, List, Tuple

from common.runtime.mxnet import mx

from .graph import Graph, Node, Output

GROUPS = ("column 0", "column 1")  # values of ctx_group
# Operators that compute each channel from that channel alone.
_BY_CHANNEL = ("Activation", "LeakyReLU", "Pooling", "Dropout", "BatchNorm", "Flatten", "Pad")
_BY_CHANNEL += ("elemwise_mul", "elemwise_add", "_mul_scalar", "_plus_scalar", "_power_scalar")
_JOIN = {"num_args": "2", "dim": "1"}
_SIZE = {"Convolution": "num_filter", "FullyConnected": "num_hidden"}

Value = Dict[int, Output]  # column -> what it has; both have their part of the channels


def in_columns(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """A copy of ``symbol`` whose nodes are in GROUPS; ValueError if it has no convolution in two
    groups, or an operator that is not known here.
    """
    graph = Graph(symbol)
    if not any(_has_columns(node) for node in graph.nodes):
        raise ValueError("has no convolution in two groups, so no columns; alexnet2012 has")
    values: Dict[Tuple[Node, int], Value] = {}
    for node in graph.nodes:
        try:
            _add(values, node)
        except KeyError:
            raise ValueError(f"{node.name}: {node.op} is not known to work on two columns")
    graph.outputs = [_whole(values[one.node, one.index]) for one in graph.outputs]
    return graph.symbol()


def split(arrays: Dict[str, mx.nd.NDArray], names: Iterable[str]) -> Dict[str, mx.nd.NDArray]:
    """The plain network's arrays as those of its columns, whose weights have these ``names``.

    ``arrays`` are by a weight's name, or by ``name:number``, as an optimizer's state is kept. With
    the names of a plain network they stay as they are.
    """
    names, parts = set(names), {}
    for key, array in arrays.items():
        if _own(0, key.partition(":")[0]) not in names:
            parts[key] = array
            continue
        half = _half(array.shape[0], 0)
        parts[_own(0, key)], parts[_own(1, key)] = array[:half], array[half:]
    return parts


def merge(arrays: Dict[str, mx.nd.NDArray]) -> Dict[str, mx.nd.NDArray]:
    """The arrays of a network in columns as the plain one's; those of a plain one stay."""
    whole, first = {}, _own(0, "")
    for key, array in arrays.items():
        if key.startswith(first):
            name = key[len(first) :]
            other = arrays[_own(1, name)].as_in_context(array.context)
            whole[name] = mx.nd.concat(array, other, dim=0)
        elif not key.startswith(_own(1, "")):
            whole[key] = array
    return whole


def own_names(names: Iterable[str]) -> List[str]:
    """What the columns call a plain network's weights."""
    return [_own(column, name) for name in names for column in (0, 1)]


def _has_columns(node):
    return node.op == "Convolution" and node.settings.get("num_group") == "2"


def _halves_channels(node):
    settings = {"axis": "1", **node.settings}
    return node.op == "SliceChannel" and settings == {"axis": "1", "num_outputs": "2"}


def _own(column, name):
    return f"column{column}/{name}"


def _half(count, column):
    return (count + 1 - column) // 2


def _node(column, op, name, inputs, attrs=()):
    group = {"__ctx_group__": GROUPS[column]}
    return Output(Node(op, name, list(inputs), {**dict(attrs), **group}))


def _whole(value: Value, column: int = 0) -> Output:
    """All channels, on the device of ``column``.

    The other device sends a copy of its part, so that the gradients of both readers are added
    there: without it, MXNet would send sums to and fro.
    """
    if len(value) == 1:
        return next(iter(value.values()))
    name = _own(column, value[column].node.name.partition("/")[2])
    sent = _node(1 - column, "_copy", f"{name}_other", [value[1 - column]])
    parts = {column: value[column], 1 - column: sent}
    return _node(column, "Concat", f"{name}_both", [parts[0], parts[1]], _JOIN)


def _add(values: Dict[Tuple[Node, int], Value], node: Node) -> None:
    """Take the plain network's next node; ``values`` has what each output so far has become.

    KeyError if it is not known how its columns would be computed.
    """
    given = [values[one.node, one.index] for one in node.inputs]
    if node.is_variable:
        value = {0: _node(0, node.op, node.name, (), node.attrs)}
    elif node.op in _SIZE:
        value = _layer(node, given[0])
    elif node.op == "LRN" and len(given[0]) == 2:
        value = _lrn(node, given[0])
    elif _halves_channels(node) and len(given[0]) == 2:
        for column, output in given[0].items():
            values[node, column] = {column: output}
        return
    elif node.op == "Concat" and [list(one) for one in given] == [[0], [1]]:
        value = {**given[0], **given[1]}
    elif node.op in (*_BY_CHANNEL, "LRN"):
        value = _by_channel(node, given)
    elif node.op == "SoftmaxOutput":
        value = {0: _node(0, node.op, node.name, map(_whole, given), node.attrs)}
    else:
        raise KeyError(node.op)
    values[node, 0] = value


def _layer(node, value):
    """A convolution or a fully connected layer."""
    size, attrs, made = _SIZE[node.op], dict(node.attrs), {}
    separate = _has_columns(node)
    if separate:
        del attrs["num_group"]
    elif attrs.get("num_group", "1") != "1":
        raise KeyError("num_group")
    for column in (0, 1):
        attrs[size] = str(_half(int(node.settings[size]), column))
        read = value[column] if separate else _whole(value, column)
        inputs = [read, *(_part(one.node, column) for one in node.inputs[1:])]
        made[column] = _node(column, node.op, _own(column, node.name), inputs, attrs)
    return made


def _by_channel(node, values):
    """Each column's channels apart."""
    value = values[0]
    if len(value) == 1:
        (column,) = value
        inputs = [one[column] if column in one else _whole(one) for one in values]
        name = _own(column, node.name) if column else node.name
        return {column: _node(column, node.op, name, inputs, node.attrs)}
    made = {}
    for column in value:
        inputs = [
            _part(one.node, column) if one.node.is_variable else other[column]
            for one, other in zip(node.inputs, values)
        ]
        made[column] = _node(column, node.op, _own(column, node.name), inputs, node.attrs)
    return made


def _part(variable, column):
    """A column's half of a weight: the channels or units that it computes."""
    attrs = {key: value for key, value in variable.attrs.items() if key != "__shape__"}
    return _node(column, "null", _own(column, variable.name), (), attrs)


def _lrn(node, value):
    """LRN over the channels of both columns: each reads some of the other's, next to its own."""
    reach, made = int(node.settings["nsize"]) // 2, {}
    # of the other column; of the layer's output, on the side where those were put
    nearest = ({"begin": "0", "end": str(reach)}, {"begin": str(-reach), "end": "None"})
    kept = ({"begin": "0", "end": str(-reach)}, {"begin": str(reach), "end": "None"})
    for column in (0, 1):
        name, axis = _own(column, node.name), {"axis": "1"}
        cut = {**nearest[column], **axis}
        near = _node(1 - column, "slice_axis", f"{name}_near", [value[1 - column]], cut)
        parts = [value[0], near] if column == 0 else [near, value[1]]
        wide = _node(column, "Concat", f"{name}_around", parts, _JOIN)
        wide = _node(column, "LRN", f"{name}_wide", [wide], node.attrs)
        made[column] = _node(column, "slice_axis", name, [wide], {**kept[column], **axis})
    return made
