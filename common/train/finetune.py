"""Begin from another checkpoint's weights: ``--pretrained``, on another class count perhaps."""

from typing import Dict, List, NamedTuple

from common.checkpoint import store
from common.cli import UserError
from common.graph.graph import Graph
from common.runtime.mxnet import mx


class Pretrained(NamedTuple):
    """What --pretrained, --freeze and --new-lr-mult come to for a network."""

    arg_params: Dict[str, mx.nd.NDArray]  # that fit
    other: List[str]  # weights of the network that the checkpoint has not, or in another shape
    frozen: List[str]  # weights that stay as they are
    lr_mult: float  # of the other weights


def add_args(parser) -> None:
    """Add the flags that say what to begin from."""
    group = parser.add_argument_group("fine-tuning")
    group.add_argument("--pretrained", metavar="PREFIX", help="begin with this checkpoint")
    group.add_argument("--pretrained-epoch", type=int, metavar="N", help="its number")
    group.add_argument(
        "--freeze",
        type=lambda text: text.split(","),
        default=[],
        help="layers that are not trained, by how their names begin, such as conv or conv1,conv2",
    )
    group.add_argument(
        "--new-lr-mult",
        type=float,
        default=1.0,
        help="the rate of layers that --pretrained does not fill is multiplied by it",
    )


def check_args(args) -> None:
    """Refuse flags that do nothing without one another.

    Raises:
        UserError: naming them.
    """
    if (args.pretrained is None) != (args.pretrained_epoch is None):
        raise UserError("--pretrained and --pretrained-epoch: one needs the other")
    if args.pretrained is None and (args.freeze or args.new_lr_mult != 1):
        raise UserError("--freeze and --new-lr-mult: need --pretrained")
    if args.new_lr_mult < 0:
        raise UserError(f"--new-lr-mult {args.new_lr_mult:g}: must not be below 0")


def load(args, symbol) -> Pretrained:
    """The weights of ``args.pretrained`` that have the names and shapes of the network ``symbol``.

    Raises:
        UserError: no such checkpoint, none of its weights fits, or --freeze names other layers.
    """
    shapes, _, _ = symbol.infer_shape(data=(1, *args.image_shape))
    wanted = dict(zip(symbol.list_arguments(), shapes))
    names = [name for name in wanted if name not in ("data", "softmax_label")]
    _, found, _ = store.load(args.pretrained, args.pretrained_epoch)
    fit = {n: found[n] for n in names if n in found and found[n].shape == wanted[n]}
    if not fit:
        raise UserError(f"--pretrained {args.pretrained}: none of its weights fits this network")
    other = [name for name in names if name not in fit]
    frozen = [name for name in names if name.startswith(tuple(args.freeze))]
    for begin in args.freeze:
        if not begin or not any(name.startswith(begin) for name in frozen):
            raise UserError(f"--freeze {begin}: no layer of this network begins so")
    random = sorted(set(frozen) & set(other))
    if random:
        raise UserError(f"--freeze: {random[0]} is not in --pretrained, so it must be trained")
    if len(frozen) == len(names):
        raise UserError("--freeze: leaves nothing to train")
    return Pretrained(fit, other, frozen, args.new_lr_mult)


def describe(args, found: Pretrained) -> str:
    """A line on what was taken and what was not."""
    source = store.params_path(args.pretrained, args.pretrained_epoch)
    text = f"pretrained: {len(found.arg_params)} weights of {source}"
    if found.frozen:
        text += f", {len(found.frozen)} of them frozen"
    return text + f"; new: {', '.join(found.other) or 'none'}"


def with_lr_mult(symbol, names, factor: float):
    """A copy of ``symbol`` whose variables ``names`` have a learning rate ``factor`` times as high.

    MXNet's optimizers read that from the variables' attributes.
    """
    graph = Graph(symbol)
    for node in graph.nodes:
        if node.is_variable and node.name in names:
            node.attrs["__lr_mult__"] = str(factor)
    return graph.symbol()
