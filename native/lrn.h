// _alexnet_lrn: local response normalization across channels, and its gradient.
#ifndef NATIVE_LRN_H_
#define NATIVE_LRN_H_

#include <algorithm>
#include <cmath>
#include <vector>

#include "common.h"

namespace {

const int64_t kTile = 128;  // positions handled together: 512 bytes a channel

struct Lrn {
  int64_t channels, half;
  float scale, beta, knorm;  // scale: alpha / nsize
};

Lrn parse(const Attributes& attrs, int64_t channels) {
  const int nsize = static_cast<int>(number(attrs, "nsize", 0));
  Lrn lrn;
  lrn.channels = channels;
  lrn.half = (nsize - 1) / 2;  // as MXNet's: an even window is one narrower, alpha is not
  lrn.scale = static_cast<float>(number(attrs, "alpha", 1e-4) / nsize);
  lrn.beta = static_cast<float>(number(attrs, "beta", 0.75));
  lrn.knorm = static_cast<float>(number(attrs, "knorm", 2));
  return lrn;
}

// s[p] = knorm + alpha / nsize * (sum of x^2 over the window of channel c), for `width` positions.
inline __attribute__((always_inline)) void window(const Lrn& lrn, const float* x, int64_t plane,
                                                  int64_t c, int64_t width, float* s) {
  const int64_t first = std::max<int64_t>(0, c - lrn.half);
  const int64_t last = std::min(lrn.channels - 1, c + lrn.half);
  for (int64_t p = 0; p < width; ++p) s[p] = 0;
  for (int64_t j = first; j <= last; ++j) {
    const float* row = x + j * plane;
    for (int64_t p = 0; p < width; ++p) s[p] += row[p] * row[p];
  }
  for (int64_t p = 0; p < width; ++p) s[p] = lrn.knorm + lrn.scale * s[p];
}

// s[p] -> s[p]^-beta; square roots where beta is AlexNet's 0.75, since they are vector instructions
inline __attribute__((always_inline)) void power(const Lrn& lrn, const float* s, int64_t width,
                                                 float* result) {
  if (lrn.beta == 0.75f) {
    for (int64_t p = 0; p < width; ++p) {
      const float root = std::sqrt(s[p]);
      result[p] = 1.0f / (root * std::sqrt(root));
    }
  } else {
    for (int64_t p = 0; p < width; ++p) result[p] = std::pow(s[p], -lrn.beta);
  }
}

DISPATCHED void forward_tile(const Lrn& lrn, const float* x, float* y, int64_t plane,
                             int64_t width) {
  float s[kTile], r[kTile];
  for (int64_t c = 0; c < lrn.channels; ++c) {
    window(lrn, x, plane, c, width, s);
    power(lrn, s, width, r);
    const float* in = x + c * plane;
    float* out = y + c * plane;
    for (int64_t p = 0; p < width; ++p) out[p] = in[p] * r[p];
  }
}

// dx_c = g_c s_c^-beta - 2 alpha beta / nsize x_c sum_j g_j x_j s_j^(-beta-1), j over c's window
DISPATCHED void backward_tile(const Lrn& lrn, const float* g, const float* x, float* dx,
                              int64_t plane, int64_t width, float* t) {
  float s[kTile], r[kTile];
  for (int64_t c = 0; c < lrn.channels; ++c) {
    window(lrn, x, plane, c, width, s);
    power(lrn, s, width, r);
    const float *in = x + c * plane, *gradient = g + c * plane;
    float *out = dx + c * plane, *term = t + c * kTile;
    for (int64_t p = 0; p < width; ++p) {
      out[p] = gradient[p] * r[p];
      term[p] = out[p] * in[p] / s[p];
    }
  }
  const float factor = 2 * lrn.scale * lrn.beta;
  for (int64_t c = 0; c < lrn.channels; ++c) {
    const int64_t first = std::max<int64_t>(0, c - lrn.half);
    const int64_t last = std::min(lrn.channels - 1, c + lrn.half);
    for (int64_t p = 0; p < width; ++p) s[p] = 0;
    for (int64_t j = first; j <= last; ++j)
      for (int64_t p = 0; p < width; ++p) s[p] += t[j * kTile + p];
    const float* in = x + c * plane;
    float* out = dx + c * plane;
    for (int64_t p = 0; p < width; ++p) out[p] -= factor * in[p] * s[p];
  }
}

// Calls work(offset of a tile's first value, its width) for every tile, on all threads.
template <typename Work>
void for_each_tile(const std::vector<int64_t>& shape, Work work) {
  int64_t plane = 1;
  for (size_t i = 2; i < shape.size(); ++i) plane *= shape[i];
  const int64_t tiles = (plane + kTile - 1) / kTile;
  const int64_t image = shape[1] * plane;
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < shape[0] * tiles; ++i) {
    const int64_t start = i % tiles * kTile;
    work(i / tiles * image + start, plane, std::min(kTile, plane - start));
  }
}

MXReturnValue lrn_shape(const Attributes& attrs, std::vector<std::vector<unsigned int>>* in,
                        std::vector<std::vector<unsigned int>>* out) {
  const int nsize = static_cast<int>(number(attrs, "nsize", 0));
  if (nsize < 1 || in->at(0).size() < 2) {
    MX_ERROR_MSG << "_alexnet_lrn needs nsize of at least 1, and channels as the second axis";
    return MX_FAIL;
  }
  out->at(0) = in->at(0);
  return MX_SUCCESS;
}

MXReturnValue lrn_forward(const Attributes& attrs, std::vector<MXTensor>* in,
                          std::vector<MXTensor>* out, const OpResource&) {
  const Lrn lrn = parse(attrs, in->at(0).shape[1]);
  const float* x = in->at(0).data<float>();
  float* y = out->at(0).data<float>();
  for_each_tile(in->at(0).shape, [&](int64_t at, int64_t plane, int64_t width) {
    forward_tile(lrn, x + at, y + at, plane, width);
  });
  return MX_SUCCESS;
}

// in: the output's gradient, the input, the output
MXReturnValue lrn_backward(const Attributes& attrs, std::vector<MXTensor>* in,
                           std::vector<MXTensor>* out, const OpResource&) {
  const Lrn lrn = parse(attrs, in->at(1).shape[1]);
  const float *g = in->at(0).data<float>(), *x = in->at(1).data<float>();
  float* dx = out->at(0).data<float>();
  for_each_tile(in->at(1).shape, [&](int64_t at, int64_t plane, int64_t width) {
    static thread_local std::vector<float> terms;
    terms.resize(lrn.channels * kTile);
    backward_tile(lrn, g + at, x + at, dx + at, plane, width, terms.data());
  });
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(_alexnet_lrn)
    .setParseAttrs(one_to_one)
    .setInferType(float32_only)
    .setInferShape(lrn_shape)
    .setForward(lrn_forward, "cpu")
    .setBackward(lrn_backward, "cpu");

#endif  // NATIVE_LRN_H_
