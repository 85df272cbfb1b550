// _alexnet_first_convolution: a network's first convolution, with a stride, for training; a relu
// after it if asked for. Its input gets no gradient: nothing reads one.
//
// Its outputs in float32 are computed by Fourier's method: the rounding of Winograd's would turn
// relus over, and with them the whole network's gradients. The weights' gradients decide nothing.
#pragma once

#include "convolution.h"

namespace {

void first_convolution_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  compute_convolution(attrs, in, out, kFourier, nullptr);
}

}  // namespace

REGISTER_OP(_alexnet_first_convolution)
    .setParseAttrs(counts<3, 1>)
    .setInferType(float32_only)
    .setInferShape(infer_shape<convolution_shape>)
    .setForward(compute<first_convolution_forward>, "cpu")
    .setBackward(compute<convolution_backward<false>>, "cpu");
