"""Fine-tuning: begin with another checkpoint's weights, perhaps for other classes.

The source's preparation of images and, for the same network, its graph come with its weights: they
mean nothing without them.
"""

import argparse
import os
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from common import cli
from common.checkpoint import store
from common.checkpoint.config import config_path, load_config
from common.cli import UserError
from common.graph.graph import Graph
from common.runtime.mxnet import mx

# The training arguments that say how images are prepared.
_PREPARATION = ("image_shape", "resize", "rgb_mean", "rgb_std")


class Pretrained(NamedTuple):
    """What --pretrained and --freeze mean for a network."""

    params: Dict[str, mx.nd.NDArray]  # those that fit the network, auxiliary states among them
    other: List[str]  # weights that the source lacks, or has in another shape
    frozen: List[str]  # weights that are not trained
    rows: Dict[str, mx.nd.NDArray]  # of other weights: the source's rows of classes it knows
    row_numbers: List[int]  # which rows of the network's output layer those become
    classes: str  # how the output layer came about, for the first lines of a run


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what to begin from."""
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--pretrained", metavar="PREFIX", help="begin with this checkpoint")
    group.add_argument(
        "--pretrained-epoch", type=cli.number(int, least=0), metavar="N", help="its number"
    )
    group.add_argument(
        "--freeze",
        type=lambda text: text.split(","),
        default=[],
        help="layers that are not trained, by how their names begin, such as conv or conv1,conv2",
    )
    group.add_argument(
        "--cache-features",
        type=cli.positive_int,
        metavar="VIEWS",
        help="run the frozen layers once on so many augmented views of each image, without dropout,"
        " keep in memory what they make of them, and train the others on that",
    )


def check_args(args: argparse.Namespace) -> None:
    """Refuse flags that do nothing without one another."""
    if (args.pretrained is None) != (args.pretrained_epoch is None):
        raise UserError("--pretrained and --pretrained-epoch: one needs the other")
    same = args.pretrained and args.model_prefix
    if same and os.path.realpath(args.pretrained) == os.path.realpath(args.model_prefix):
        raise UserError("--pretrained and --model-prefix: are the same; choose another prefix")
    if args.pretrained is None and args.freeze:
        raise UserError("--freeze: needs --pretrained")
    if args.cache_features:
        _check_cache(args)


def _check_cache(args):
    if not args.freeze:
        raise UserError("--cache-features: needs --freeze, such as --freeze conv,fc1,fc2")
    others = {
        f"--kv-store {args.kv_store}": args.kv_store.startswith("dist"),
        "--model-parallel": args.model_parallel,
        f"--dtype {args.dtype}": args.dtype != "float32",
        "--data-dtype uint8": args.data_dtype == "uint8",
        "--data-backend dali": args.data_backend == "dali",
        "--benchmark": args.benchmark,
        "--test-io": args.test_io,
    }
    for flag, given in others.items():
        if given:
            raise UserError(f"--cache-features: is not written for {flag}; leave one out")


def source_config(prefix: str) -> Optional[dict]:
    """The config of the checkpoint at ``prefix``; None if it has no config file."""
    return load_config(prefix) if os.path.exists(config_path(prefix)) else None


def preparation_defaults(source: dict) -> dict:
    """The source's preparation of images, as defaults of the flags of the same names."""
    return {name: _flag_value(source[name]) for name in _PREPARATION}


def other_preparation(args: Mapping, source: dict) -> str:
    """The flags that prepare images in another way than the source's arguments do."""
    kept = preparation_defaults(source)
    other = [name for name in kept if kept[name] != _flag_value(args[name])]
    return ", ".join("--" + name.replace("_", "-") for name in other)


def _flag_value(value):
    return tuple(value) if isinstance(value, list) else value


def graph(symbol: mx.sym.Symbol, prefix: str, num_classes: int) -> mx.sym.Symbol:
    """The source's own graph, ``symbol``, with an output layer for ``num_classes`` classes.

    It may differ from what symbols/ builds: an imported network has its own LRN k and pooling.
    UserError if it does not end in a fully connected layer and a SoftmaxOutput.
    """
    graph = Graph(symbol)
    last = graph.outputs[0].node
    before = last.inputs[0].node if last.op == "SoftmaxOutput" else last
    if before.op != "FullyConnected":
        raise UserError(
            f"--pretrained {prefix}: does not end in a fully connected layer and SoftmaxOutput;"
            " give the checkpoint of a training run or an import, not an exported or int8 one"
        )
    for node in (before, *(one.node for one in before.inputs[1:])):  # its variables repeat it
        if "num_hidden" in node.attrs:
            node.attrs["num_hidden"] = str(num_classes)
    return graph.symbol()


def select(
    symbol: mx.sym.Symbol,
    image_shape: Tuple[int, int, int],
    prefix: str,
    given: Dict[str, mx.nd.NDArray],
    freeze: Sequence[str] = (),
    classes: Tuple[Optional[Sequence[str]], Optional[Sequence[str]]] = (None, None),
) -> Pretrained:
    """The weights of a checkpoint that have the names and shapes of the network ``symbol``.

    Rows of the output layer belong to classes: they are taken over by the classes' names.
    UserError if none of the weights fits, or ``freeze`` names other layers.

    Args:
        image_shape: (channels, height, width), on which the shapes depend.
        given: the weights of the checkpoint at ``prefix``, auxiliary states among them.
        freeze: how the names of the frozen layers begin.
        classes: names of the source's classes and of the network's, None where they are unknown.
    """
    shapes, _, states = symbol.infer_shape(data=(1, *image_shape))
    wanted = dict(zip(symbol.list_arguments(), shapes))
    trained = [name for name in wanted if name not in ("data", "softmax_label")]
    wanted.update(zip(symbol.list_auxiliary_states(), states))
    names = [*trained, *symbol.list_auxiliary_states()]
    fit = {n: given[n] for n in names if n in given and given[n].shape == wanted[n]}
    if not fit:
        raise UserError(f"--pretrained {prefix}: none of its weights fits this network")
    output = [name for name in _output_layer(symbol) if name in given]
    rows, numbers, said = _match_classes(output, fit, given, wanted, *classes)
    other = [name for name in names if name not in fit]
    frozen = [name for name in trained if name.startswith(tuple(freeze))]
    _check_frozen(freeze, trained, frozen, other)
    return Pretrained(fit, other, frozen, rows, numbers, said)


def _output_layer(symbol):
    """The names of the weight and the bias in front of the SoftmaxOutput."""
    last = Graph(symbol).outputs[0].node
    return [one.node.name for one in last.inputs[0].node.inputs[1:]] if last.inputs else []


def _match_classes(output, fit, given, wanted, before, now):
    """Decide on the output layer; what does not fit by its classes is taken out of ``fit``.

    Returns the source's rows by weight, the rows of the network that they become, and a text.
    """
    if not (before and now):
        same = all(name in fit for name in output)
        return {}, [], "taken to be the same, in the same order" if same else "new"
    if list(before) == list(now):
        return {}, [], "the same"
    numbers = [i for i, name in enumerate(now) if name in before]
    sources = [list(before).index(now[i]) for i in numbers]
    rows = {}
    for name in output:
        fit.pop(name, None)
        if numbers and given[name].shape[1:] == wanted[name][1:]:
            rows[name] = given[name].take(mx.nd.array(sources))
    if not rows:
        return {}, [], "new"
    kept = ", ".join(now[i] for i in numbers[:5]) + ", ..." * (len(numbers) > 5)
    return rows, numbers, f"{len(numbers)} of {len(now)} known by their names ({kept})"


def _check_frozen(freeze, names, frozen, other):
    for begin in freeze:
        if not begin or not any(name.startswith(begin) for name in frozen):
            raise UserError(f"--freeze {begin}: no layer of this network has a name that begins so")
    random = sorted(set(frozen) & set(other))
    if random:
        raise UserError(f"--freeze: {random[0]} is not in --pretrained, so it must be trained")
    if len(frozen) == len(names):
        raise UserError("--freeze: leaves nothing to train")


def describe(args: argparse.Namespace, pretrained: Pretrained, source: Optional[dict]) -> str:
    """What was taken from ``source``, its training arguments if known, for a run's first lines."""
    path = store.params_path(args.pretrained, args.pretrained_epoch)
    text = f"pretrained: {len(pretrained.params)} weights of {path}"
    if pretrained.frozen:
        text += f", {len(pretrained.frozen)} of them frozen"
    text += f"; new: {', '.join(pretrained.other) or 'none'}; classes: {pretrained.classes}"
    if source is None:
        config = config_path(args.pretrained)
        return text + f"; it has no {config}: the preparation is that of the recipe and the flags"
    same = source["network"] == args.network
    text += "; graph: " + ("its own" if same else f"{args.network}, not its own")
    flags = other_preparation(vars(args), source)
    return text + "; preparation: its own" + (f" but for {flags}" if flags else "")


def with_frozen_statistics(symbol: mx.sym.Symbol, frozen: Sequence[str]) -> mx.sym.Symbol:
    """A copy of ``symbol`` in which batch norm with a frozen scale keeps its statistics, too."""
    graph = Graph(symbol)
    for node in graph.nodes:
        if node.op == "BatchNorm" and node.inputs[1].node.name in frozen:
            node.attrs["use_global_stats"] = "True"
    return graph.symbol()
