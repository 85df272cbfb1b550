"""Post-training quantisation: a float32 network becomes one that computes in int8 on the CPU.

MXNet's MKL-DNN backend fuses each convolution and fully connected layer with its relu, and runs
them and the max pooling between them in 8-bit integers. LRN, tanh and softmax have no int8 form in
MXNet and stay float32. (common/graph/int8_operators.py runs the result.) The scale of each tensor's
integers is fixed beforehand, from the range of its values on real images: this is the calibration.
The ranges are part of the graph, so a quantised symbol belongs to one epoch's weights.
"""

import os
from typing import Iterable, Sequence, Tuple

import numpy as np

from common.checkpoint import store
from common.checkpoint.config import load_config
from common.cli import UserError
from common.graph.dequantize import is_quantized
from common.runtime import native
from common.runtime.mxnet import mx

from .compare import without_dropconnect


def check_build() -> None:
    """UserError if MXNet was built without int8 operators, or the environment disables them."""
    if not mx.runtime.Features().is_enabled("MKLDNN"):
        raise UserError("int8: this MXNet is built without MKL-DNN; install mxnet==1.9.1 from PyPI")
    if os.environ.get("MXNET_MKLDNN_ENABLED", "1") == "0":
        raise UserError("MXNET_MKLDNN_ENABLED=0: switches off what int8 needs; unset it")


def load_float32(prefix: str, epoch: int, remark: str) -> Tuple[dict, tuple]:
    """The config of a float32 checkpoint, and its symbol, arg_params and aux_params.

    UserError if a file is missing or damaged, or it is int8; ``remark`` says why that matters.
    """
    config, network = load_config(prefix), store.load(prefix, epoch)
    if is_quantized(network[0]):
        raise UserError(f"--model-prefix {prefix}: is int8{remark}; give the float32 one")
    return config, network


class _Batches(mx.io.DataIter):
    """Images, one a batch, as the iterator that MXNet calibrates with.

    Larger batches would need filling, and a fixed batch size is all that its monitor survives.
    """

    def __init__(self, images, image_shape):
        super().__init__(batch_size=1)
        self._images = iter(images)
        self.provide_data = [mx.io.DataDesc("data", (1, *image_shape))]
        self.provide_label = [mx.io.DataDesc("softmax_label", (1,))]

    def next(self):
        return mx.io.DataBatch([mx.nd.array(next(self._images)[None])])


def quantize(
    symbol: mx.sym.Symbol,
    arg_params: dict,
    aux_params: dict,
    images: Iterable[np.ndarray],
    image_shape: Sequence[int],
) -> Tuple[mx.sym.Symbol, dict, dict]:
    """The plain float32 network in int8, for any batch size: symbol, arg_params and aux_params.

    It is calibrated on prepared pictures, (C, H, W) float32 each. The weights of fully connected
    layers are int8; those of convolutions are float32 and become int8 when the first batch runs.
    UserError if there is no layer that can be quantised.
    """
    native.drop_lines(native.MXNET_NOISE)
    network = mx.contrib.quantization.quantize_model_mkldnn(
        without_dropconnect(symbol),
        arg_params,
        aux_params,
        excluded_sym_names=[f"{layer}_variance" for layer in ("fc1", "fc2")],  # dropconnect's
        calib_mode="naive",  # the whole range; "entropy" needs scipy
        calib_data=_Batches(images, image_shape),
        quantized_dtype="auto",  # unsigned after a relu, else signed
        logger=None,
    )
    if not is_quantized(network[0]):
        raise UserError("the network has no convolution or fully connected layer to quantise")
    return network
