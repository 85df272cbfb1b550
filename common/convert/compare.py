"""Networks without their training nodes, and the comparison of a converted one with its source."""

import argparse
import os
from typing import Callable, Sequence

import numpy as np

from common.checkpoint import store
from common.cli import UserError
from common.graph.graph import Graph
from common.input import pipeline
from common.input.preparation import Preparation, read_file, sample_images
from common.io.opencv import cv2
from common.records.identity import record_files
from common.runtime.mxnet import mx

_IMAGES = 8  # to compare on, at most
# Probabilities alone would pass nearly any copy of a network that is sure of its images.
_TOLERANCE, _LOG_TOLERANCE = 1e-5, 1e-3  # of a probability and of its natural logarithm


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the checkpoint to export and the images to compare it on."""
    store.add_args(parser)
    compared = parser.add_mutually_exclusive_group()
    compared.add_argument(
        "--data-val",
        metavar="X.rec",
        help="images to compare the copy on; default: those that training was validated with",
    )
    compared.add_argument("--images", nargs="+", metavar="IMAGE", help="or picture files")


def without_training(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """The network, float32 or int8, for inference alone: ``data`` in, probabilities out.

    A softmax of the same name replaces SoftmaxOutput and its label. Dropout is removed. Of
    dropconnect that part stays which computes in inference. The random slopes of rrelu become
    their mean.
    """
    graph = Graph(without_dropconnect(symbol))
    for node in graph.nodes:
        if node.op == "Dropout":
            graph.replace(node, node.inputs[0])
        if node.op == "SoftmaxOutput":
            node.op, node.inputs, node.attrs = "softmax", node.inputs[:1], {}
        if node.attrs.get("act_type") == "rrelu":
            slope = (float(node.attrs["lower_bound"]) + float(node.attrs["upper_bound"])) / 2
            node.attrs = {"act_type": "leaky", "slope": repr(slope)}
    return graph.symbol()


def without_dropconnect(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """The network with that part alone of ``symbols.layers.dropconnect`` which inference takes."""
    graph = Graph(symbol)
    for node in graph.nodes:
        sources = [one.node for one in node.inputs]
        if node.op == "elemwise_mul" and _is_mask(sources[1]):
            sources[0].attrs.pop("__dtype__", None)  # which only the mask needs
            graph.replace(node, node.inputs[0])
        if node.op == "elemwise_add" and sources[1].op == "broadcast_mul":
            in_inference = sources[1].inputs[0].node
            if in_inference.op == "BlockGrad":
                graph.replace(node, in_inference.inputs[0])
    return graph.symbol()


def _is_mask(node):
    return node.op == "Dropout" and node.inputs[0].node.op == "ones_like"


def real_images(args: argparse.Namespace, config: dict) -> np.ndarray:
    """The images to compare on, prepared as for evaluation: (N, C, H, W) float32, N at most 8.

    UserError if there are none, or they cannot be read.
    """
    trained = config["args"]
    preparation = Preparation.from_args(trained)
    if args.images:
        pictures = (preparation.decode(read_file(path), path) for path in args.images[:_IMAGES])
        return np.stack([preparation.apply(picture) for picture in pictures])
    path = args.data_val or trained.get("data_val")
    if not args.data_val and not all(map(os.path.isfile, record_files(path or ""))):
        raise UserError(
            f"--data-val: is needed, since the validation data of training ({path}) is not here; or"
            " give --images"
        )
    found = pipeline.checked_records(path, trained["num_classes"], classes=config["classes"])
    return np.stack(list(sample_images(found, _IMAGES, preparation)))


def by(shape: Sequence[int]) -> str:
    """A shape as text, such as 64x3x11x11."""
    return "x".join(map(str, shape))


def pictures(channels: int, height: int, width: int) -> np.ndarray:
    """Made-up pictures, (8, C, H, W) float32, 0 to 255: four of noise, four smooth as photos."""
    rng = np.random.default_rng(0)
    made = []
    for cell in (1, 1, 1, 1, 8, 16, 32, 64):  # pixels
        noise = rng.normal(128, 80, (height // cell + 2, width // cell + 2, channels))
        large = cv2.resize(noise.clip(0, 255), (width, height), interpolation=cv2.INTER_LINEAR)
        made.append(large.transpose(2, 0, 1))
    return np.float32(made)


def probabilities(
    symbol: mx.sym.Symbol, arg_params: dict, aux_params: dict, images: np.ndarray
) -> np.ndarray:
    """What stock MXNet computes from ``images`` (N, C, H, W) on the CPU: (N, classes)."""
    # Without a type for data, MXNet takes everything for float32, int8 weights included.
    executor = symbol.simple_bind(mx.cpu(), "null", {"data": "float32"}, data=images.shape)
    executor.copy_params_from(arg_params, aux_params)
    return executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()


def in_batches(
    run: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch_size: int
) -> np.ndarray:
    """Call ``run`` on batches of ``batch_size``: (N, C, H, W) images -> (N, classes).

    The last batch is filled up with the first images; what that gives is left out.
    """
    filled = np.resize(images, (len(images) + -len(images) % batch_size, *images.shape[1:]))
    said = [run(filled[i : i + batch_size]) for i in range(0, len(filled), batch_size)]
    return np.concatenate(said)[: len(images)]


def difference(copy: str, said: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference between two arrays of probabilities, (N, classes).

    UserError, which names ``copy`` as the network that ``said`` is from, if a probability differs
    by more than 1e-5, or its logarithm by more than 1e-3.
    """
    largest = float(np.abs(said - expected).max())
    logs = float(np.abs(_log(said) - _log(expected)).max())
    if not (largest <= _TOLERANCE and logs <= _LOG_TOLERANCE):  # so that NaN is refused, too
        raise UserError(
            f"{copy}: differs from the checkpoint by {largest:.1e} in a probability, {logs:.1e} in"
            f" a logarithm of one (over {_TOLERANCE:.0e}, {_LOG_TOLERANCE:.0e}); nothing is written"
        )
    return largest


def _log(probabilities):
    return np.log(np.maximum(probabilities, 1e-30))  # what is smaller may have been rounded to 0
