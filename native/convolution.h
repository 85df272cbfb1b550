// _alexnet_convolution: a convolution of (N, C, H, W) arrays with a 3x3 or 5x5 kernel and stride 1,
// by Winograd's method, with a relu after it if asked for; and its gradients.
#ifndef NATIVE_CONVOLUTION_H_
#define NATIVE_CONVOLUTION_H_

#include <cstdint>
#include <vector>

#include "common.h"
#include "winograd.h"

namespace {

// Convolution's attributes; false if they do not fit the shape of x.
template <typename Size>
bool parse(const Attributes& attrs, const std::vector<Size>& x, Convolution* c) {
  int64_t kernel[2];
  const int64_t filters = static_cast<int64_t>(number(attrs, "num_filter", 0));
  c->groups = static_cast<int64_t>(number(attrs, "num_group", 1));
  if (x.size() != 4 || !pair(attrs, "kernel", 1, kernel) || kernel[0] != kernel[1] ||
      (kernel[0] != 3 && kernel[0] != 5) || filters < 1 || c->groups < 1 ||
      filters % c->groups || x[1] % c->groups)
    return false;
  c->pad[0] = c->pad[1] = 0;
  if (has(attrs, "pad") && !pair(attrs, "pad", 0, c->pad)) return false;
  c->images = x[0];
  c->channels = x[1] / c->groups;
  c->filters = filters / c->groups;
  c->side = kernel[0];
  c->relu = has(attrs, "act_type");
  if (c->relu && attrs.at("act_type") != "relu") return false;
  for (int i = 0; i < 2; ++i) {
    c->in[i] = x[2 + i];
    c->out[i] = c->in[i] + 2 * c->pad[i] - c->side + 1;
    c->tiles[i] = (c->out[i] + c->tile() - 1) / c->tile();
    if (c->out[i] < 1) return false;
  }
  return true;
}

MXReturnValue convolution_shape(const Attributes& attrs,
                                std::vector<std::vector<unsigned int>>* in,
                                std::vector<std::vector<unsigned int>>* out) {
  Convolution c;
  if (!parse(attrs, in->at(0), &c)) {
    MX_ERROR_MSG << "_alexnet_convolution takes (N, C, H, W), num_filter, and a kernel of 3x3 or "
                    "5x5 that fits it";
    return MX_FAIL;
  }
  const unsigned int filters = static_cast<unsigned int>(c.groups * c.filters);
  const unsigned int side = static_cast<unsigned int>(c.side);
  in->at(1) = {filters, static_cast<unsigned int>(c.channels), side, side};
  in->at(2) = {filters};
  out->at(0) = {in->at(0)[0], filters, static_cast<unsigned int>(c.out[0]),
                static_cast<unsigned int>(c.out[1])};
  return MX_SUCCESS;
}

// in: x, w, bias
MXReturnValue convolution_forward(const Attributes& attrs, std::vector<MXTensor>* in,
                                  std::vector<MXTensor>* out, const OpResource&) {
  Convolution c;
  if (!parse(attrs, in->at(0).shape, &c)) return MX_FAIL;
  forward(c, in->at(0).data<float>(), in->at(1).data<float>(), in->at(2).data<float>(),
          out->at(0).data<float>());
  return MX_SUCCESS;
}

// in: y's gradient, x, w, bias, y; out: the gradients of x, w and bias
MXReturnValue convolution_backward(const Attributes& attrs, std::vector<MXTensor>* in,
                                   std::vector<MXTensor>* out, const OpResource&) {
  Convolution c;
  if (!parse(attrs, in->at(1).shape, &c)) return MX_FAIL;
  backward(c, in->at(0).data<float>(), in->at(1).data<float>(), in->at(2).data<float>(),
           in->at(4).data<float>(), out->at(0).data<float>(), out->at(1).data<float>(),
           out->at(2).data<float>());
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(_alexnet_convolution)
    .setParseAttrs(three_to_one)
    .setInferType(float32_only)
    .setInferShape(convolution_shape)
    .setForward(convolution_forward, "cpu")
    .setBackward(convolution_backward, "cpu");

#endif  // NATIVE_CONVOLUTION_H_
