// _alexnet_sgd_mom: momentum SGD, one pass over weight, gradient and momentum.
#ifndef NATIVE_SGD_H_
#define NATIVE_SGD_H_

#include <algorithm>
#include <vector>

#include "common.h"

namespace {

struct Sgd {
  float lr, wd, momentum, rescale, clip;
};

// In the order of MXNet's sgd_mom_update, so that the results are equal to the last bit.
DISPATCHED void sgd_span(const Sgd& sgd, float* w, const float* g, float* m, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    float gradient = sgd.rescale * g[i];
    if (sgd.clip >= 0) gradient = std::max(-sgd.clip, std::min(sgd.clip, gradient));
    m[i] = sgd.momentum * m[i] - sgd.lr * sgd.wd * w[i] - sgd.lr * gradient;
    w[i] += m[i];
  }
}

MXReturnValue sgd_shape(const Attributes&, std::vector<std::vector<unsigned int>>*,
                        std::vector<std::vector<unsigned int>>* out) {
  out->at(0) = {1};  // the interface wants an output; the results are the first and third input
  return MX_SUCCESS;
}

MXReturnValue sgd_attributes(const Attributes&, int* inputs, int* outputs) {
  *inputs = 3;
  *outputs = 1;
  return MX_SUCCESS;
}

MXReturnValue sgd_mutates(const Attributes&, std::vector<int>* inputs) {
  inputs->push_back(0);
  inputs->push_back(2);
  return MX_SUCCESS;
}

MXReturnValue sgd_forward(const Attributes& attrs, std::vector<MXTensor>* in,
                          std::vector<MXTensor>*, const OpResource&) {
  Sgd sgd;
  sgd.lr = static_cast<float>(number(attrs, "lr", 0));
  sgd.wd = static_cast<float>(number(attrs, "wd", 0));
  sgd.momentum = static_cast<float>(number(attrs, "momentum", 0));
  sgd.rescale = static_cast<float>(number(attrs, "rescale_grad", 1));
  sgd.clip = static_cast<float>(number(attrs, "clip_gradient", -1));
  float *w = in->at(0).data<float>(), *m = in->at(2).data<float>();
  const float* g = in->at(1).data<float>();
  const int64_t size = in->at(0).size(), span = 1 << 14;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < size; i += span) {
    sgd_span(sgd, w + i, g + i, m + i, std::min(span, size - i));
  }
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(_alexnet_sgd_mom)
    .setParseAttrs(sgd_attributes)
    .setInferType(float32_only)
    .setInferShape(sgd_shape)
    .setMutateInputs(sgd_mutates)
    .setForward(sgd_forward, "cpu");

#endif  // NATIVE_SGD_H_
