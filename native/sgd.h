// _alexnet_sgd_mom: momentum SGD in one pass over weight, gradient and momentum.
#pragma once

#include <algorithm>
#include <vector>

#include "common.h"
#include "parallel.h"
#include "variants.h"

namespace {

struct Sgd {
  float lr, wd, momentum, rescale;
};

// In the order of MXNet's sgd_mom_update, so that the results are equal to the last bit.
struct SgdSpan {
  static INLINED void run(const Sgd& sgd, float* w, const float* g, float* m, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      m[i] = sgd.momentum * m[i] - sgd.lr * sgd.wd * w[i] - sgd.lr * (sgd.rescale * g[i]);
      w[i] += m[i];
    }
  }
};

void sgd_shape(const Attributes&, std::vector<Shape>* in, std::vector<Shape>* out) {
  for (const Shape& shape : *in)
    if (shape != in->at(0))
      throw Refused("weight, gradient and momentum have to be of one shape, not " +
                    text_of(in->at(0)) + " and " + text_of(shape));
  out->at(0) = {1};  // the interface wants an output; the results are the first and third input
}

MXReturnValue sgd_mutates(const Attributes&, std::vector<int>* inputs) {
  inputs->push_back(0);
  inputs->push_back(2);
  return MX_SUCCESS;
}

// in: weight, gradient, momentum
void sgd_forward(const Attributes& attrs, Tensors& in, Tensors&) {
  const Sgd sgd = {static_cast<float>(read_number(attrs, "lr", 0)),
                   static_cast<float>(read_number(attrs, "wd", 0)),
                   static_cast<float>(read_number(attrs, "momentum", 0)),
                   static_cast<float>(read_number(attrs, "rescale_grad", 1))};
  const Shape shape = in[0].shape;
  float* const w = floats(in[0], shape, "the weight");
  const float* const g = floats(in[1], shape, "the gradient");
  float* const m = floats(in[2], shape, "the momentum");
  const int64_t size = in[0].size(), span = 1 << 14;
  parallel_for((size + span - 1) / span, [&](int64_t i) {
    const int64_t at = i * span;
    dispatch<SgdSpan>(sgd, w + at, g + at, m + at, std::min(span, size - at));
  });
}

}  // namespace

REGISTER_OP(_alexnet_sgd_mom)
    .setParseAttrs(counts<3, 1>)
    .setInferType(float32_only)
    .setInferShape(infer_shape<sgd_shape>)
    .setMutateInputs(sgd_mutates)
    .setForward(compute<sgd_forward>, "cpu");
