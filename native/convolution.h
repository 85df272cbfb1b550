// _alexnet_convolution: a convolution of (N, C, H, W) arrays with a 3x3 or 5x5 kernel, or with one
// of 3 or 5 times the stride, with a relu after it if asked for; and its gradients. With
// dtype=bfloat16 products are of that, and sums of float32.
// _alexnet_keeping_convolution: the same for inference, without gradients; it keeps what it
// computes of the weights, which with few images takes longer than all else. With constant=1 the
// caller promises that the weights of the first call are those of all.
#pragma once

#include <cstdint>
#include <vector>

#include "bfloat16_convolution.h"
#include "bfloat16_gradients.h"
#include "common.h"
#include "tiled_convolution.h"

namespace {

// Rows (i = 0) or columns (i = 1) of the output.
void fit_outputs(const Shape& x, int i, Convolution* c) {
  c->in[i] = x[2 + i];
  const int64_t most = c->in[i] + 2 * c->pad[i] - c->kernel;
  c->out[i] = most < 0 ? 0 : most / c->stride + 1;
}

// The convolution of x that Convolution's attributes describe.
Convolution convolution_of(const Attributes& attrs, const Shape& x) {
  Convolution c;
  int64_t kernel[2], stride[2] = {1, 1};
  read_pair(attrs, "kernel", 1, kernel);
  if (has(attrs, "stride")) read_pair(attrs, "stride", 1, stride);
  const int64_t filters = read_integer(attrs, "num_filter", 0, 0);
  c.groups = read_integer(attrs, "num_group", 1, 1);
  c.pad[0] = c.pad[1] = 0;
  if (has(attrs, "pad")) read_pair(attrs, "pad", 0, c.pad);
  c.relu = read_relu(attrs);
  c.of_bfloat16 = read_bfloat16(attrs);
  c.kernel = kernel[0];
  c.stride = stride[0];
  c.side = (c.kernel + c.stride - 1) / c.stride;
  bool right = x.size() == 4 && kernel[0] == kernel[1] && stride[0] == stride[1] &&
               (c.side == 3 || c.side == 5) &&
               filters >= 1 && filters % c.groups == 0 && x[1] % c.groups == 0;
  if (right) {
    c.images = x[0];
    c.channels = x[1] / c.groups * c.stride * c.stride;
    c.filters = filters / c.groups;
    fit_outputs(x, 0, &c);
    fit_outputs(x, 1, &c);
    right = c.out[0] >= 1 && c.out[1] >= 1;
    c.choose_method();
  }
  if (!right)
    throw Refused("a convolution of ours takes (N, C, H, W), num_filter, and a kernel of 3x3 or "
                  "5x5 strides that fits it, not " + text_of(x));
  return c;
}

Shape weight_shape(const Convolution& c) {
  return {c.groups * c.filters, c.maps(), c.kernel, c.kernel};
}

Shape output_shape(const Convolution& c) {
  return {c.images, c.groups * c.filters, c.out[0], c.out[1]};
}

void convolution_shape(const Attributes& attrs, std::vector<Shape>* in, std::vector<Shape>* out) {
  const Convolution c = convolution_of(attrs, in->at(0));
  in->at(1) = weight_shape(c);
  in->at(2) = {c.groups * c.filters};
  out->at(0) = output_shape(c);
}

// Without AMX, products of bfloat16 are those of float32 with rounded values.
const float* round_images(const Convolution& c, const float* x) {
  static thread_local std::vector<float> buffer;
  return round_all(x, c.input(c.images, 0), &buffer);
}
const float* round_weights(const Convolution& c, const float* w) {
  static thread_local std::vector<float> buffer;
  return round_all(w, c.groups * c.weights(), &buffer);
}
const float* round_gradients(const Convolution& c, const float* dy) {
  static thread_local std::vector<float> buffer;
  return round_all(dy, c.output(c.images, 0, 0, 0), &buffer);
}

enum Method { kCheaper, kFourier };

// In float32 by this method. kept: null, or what an earlier call kept. in: x, w, bias
void compute_convolution(const Attributes& attrs, Tensors& in, Tensors& out, Method method,
                         KeptWeights* kept) {
  const Shape shape = in[0].shape;
  Convolution c = convolution_of(attrs, shape);
  const float* const x = floats(in[0], shape, "the input");
  const float* const w = floats(in[1], weight_shape(c), "the weight");
  const float* const bias = floats(in[2], {c.groups * c.filters}, "the bias");
  float* const y = floats(out[0], output_shape(c), "the output");
  if (method == kFourier) c.choose_fourier();
  const bool known = kept && kept->are_of(c, w);
  if (kept && !known) kept->forget(c);
  if (c.of_bfloat16 && kAmx)
    convolve_in_tiles(c, x, w, bias, y, kept, known);
  else if (c.of_bfloat16)
    convolve(c, round_images(c, x), known ? w : round_weights(c, w), bias, y, kept, known);
  else
    convolve(c, x, w, bias, y, kept, known);
  if (kept && !known) kept->keep(c, w);
}

void convolution_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  compute_convolution(attrs, in, out, kCheaper, nullptr);
}

// A convolution of a bound network: MXNet runs it in one thread at a time.
class KeepingConvolution : public CustomStatefulOp {
 public:
  explicit KeepingConvolution(const Attributes& attrs) : attrs_(attrs) {
    kept_.constant = read_integer(attrs, "constant", 0, 0) == 1;
  }
  MXReturnValue Forward(Tensors* in, Tensors* out, const OpResource&) override {
    return reported([&] { compute_convolution(attrs_, *in, *out, kCheaper, &kept_); });
  }

 private:
  const Attributes attrs_;
  KeptWeights kept_;
};

MXReturnValue keeping_convolution(const Attributes& attrs, const MXContext&,
                                  const std::vector<std::vector<unsigned int>>&,
                                  const std::vector<int>, CustomStatefulOp** op) {
  return reported([&] { *op = CustomStatefulOp::create<KeepingConvolution>(attrs); });
}

// in: y's gradient, x, w, bias, y; out: the gradients of x, if it is wanted, of w and of bias
template <bool of_input>
void convolution_backward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Shape shape = in[1].shape;
  const Convolution c = convolution_of(attrs, shape);
  const float* const dy = floats(in[0], output_shape(c), "the output's gradient");
  const float* const x = floats(in[1], shape, "the input");
  const float* const w = floats(in[2], weight_shape(c), "the weight");
  const float* const y = floats(in[4], output_shape(c), "the output");
  float* const dx = of_input ? floats(out[0], shape, "the input's gradient") : nullptr;
  float* const dw = floats(out[1], weight_shape(c), "the weight's gradient");
  float* const dbias = floats(out[2], {c.groups * c.filters}, "the bias's gradient");
  if (c.of_bfloat16 && kAmx && (!dx || c.stride == 1))
    differentiate_in_tiles(c, dy, x, w, y, dx, dw, dbias);
  else if (c.of_bfloat16)
    differentiate(c, round_gradients(c, dy), round_images(c, x), round_weights(c, w), y, dx, dw,
                  dbias);
  else
    differentiate(c, dy, x, w, y, dx, dw, dbias);
}

}  // namespace

REGISTER_OP(_alexnet_convolution)
    .setParseAttrs(counts<3, 1>)
    .setInferType(float32_only)
    .setInferShape(infer_shape<convolution_shape>)
    .setForward(compute<convolution_forward>, "cpu")
    .setBackward(compute<convolution_backward<true>>, "cpu");

REGISTER_OP(_alexnet_keeping_convolution)
    .setParseAttrs(counts<3, 1>)
    .setInferType(float32_only)
    .setInferShape(infer_shape<convolution_shape>)
    .setCreateOpState(keeping_convolution, "cpu");
