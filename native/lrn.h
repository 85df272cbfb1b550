// _alexnet_lrn: local response normalization across channels, and its gradient. If asked for, a
// relu before it and max pooling after it are done in the same pass, a channel of an image at a
// time, while that is in the cache: apart, the three move several times as much memory.
#ifndef NATIVE_LRN_H_
#define NATIVE_LRN_H_

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "common.h"
#include "max_pool.h"

namespace {

const int64_t kTile = 512;  // positions handled together: what is made of them stays in the cache

struct Lrn {
  int64_t images, channels, plane, half;
  float scale, beta, knorm;  // scale: alpha / nsize
  bool relu, pooled;
  Pool pool;
  int64_t out_plane;
};

Lrn parse(const Attributes& attrs, const std::vector<int64_t>& shape) {
  const int nsize = static_cast<int>(number(attrs, "nsize", 0));
  Lrn lrn;
  lrn.images = shape[0];
  lrn.channels = shape[1];
  lrn.plane = 1;
  for (size_t i = 2; i < shape.size(); ++i) lrn.plane *= shape[i];
  // As MXNet's: an even window is one narrower, alpha is not.
  lrn.half = std::min<int64_t>((nsize - 1) / 2, lrn.channels - 1);
  lrn.scale = static_cast<float>(number(attrs, "alpha", 1e-4) / nsize);
  lrn.beta = static_cast<float>(number(attrs, "beta", 0.75));
  lrn.knorm = static_cast<float>(number(attrs, "knorm", 2));
  lrn.relu = has(attrs, "act_type");
  lrn.pooled = has(attrs, "kernel") && parse(attrs, shape, &lrn.pool);
  lrn.out_plane = lrn.pooled ? lrn.pool.out[0] * lrn.pool.out[1] : lrn.plane;
  return lrn;
}

// What is normalised; not a number stays that.
INLINED float rectified(const Lrn& lrn, float x) {
  return lrn.relu && x < 0 ? 0 : x;
}

// Channel c of y = x s^-beta, with s = knorm + alpha / nsize * (sum of x^2 over c's window), which
// is kept, as is s^-beta. x: an image; the others: a channel.
DISPATCHED void normalise(const Lrn& lrn, const float* x, int64_t c, float* s, float* power,
                          float* y) {
  const int64_t first = std::max<int64_t>(0, c - lrn.half);
  const int64_t last = std::min(lrn.channels - 1, c + lrn.half);
  for (int64_t start = 0; start < lrn.plane; start += kTile) {
    const int64_t end = std::min(lrn.plane, start + kTile);
    for (int64_t p = start; p < end; ++p) s[p] = 0;
    for (int64_t j = first; j <= last; ++j) {
      const float* row = x + j * lrn.plane;
      for (int64_t p = start; p < end; ++p) {
        const float value = rectified(lrn, row[p]);
        s[p] += value * value;
      }
    }
    for (int64_t p = start; p < end; ++p) s[p] = lrn.knorm + lrn.scale * s[p];
    if (lrn.beta == 0.75f) {  // AlexNet's: square roots are vector instructions
      for (int64_t p = start; p < end; ++p) {
        const float root = std::sqrt(s[p]);
        power[p] = 1.0f / (root * std::sqrt(root));
      }
    } else {
      for (int64_t p = start; p < end; ++p) power[p] = std::pow(s[p], -lrn.beta);
    }
    const float* row = x + c * lrn.plane;
    for (int64_t p = start; p < end; ++p) y[p] = rectified(lrn, row[p]) * power[p];
  }
}

// The gradient is dx_c = g_c s_c^-beta - 2 alpha beta / nsize x_c sum_j g_j x_j s_j^(-beta-1), with
// j over c's window: here its first term and what channel c adds to the sums. x: a channel.
DISPATCHED void differentiate(const Lrn& lrn, const float* g, const float* x, const float* s,
                              const float* power, float* dx, float* term) {
  for (int64_t p = 0; p < lrn.plane; ++p) {
    dx[p] = g[p] * power[p];
    term[p] = dx[p] * rectified(lrn, x[p]) / s[p];
  }
}

// The rest of channel c's gradient; channel j's terms are at j % slots.
DISPATCHED void complete(const Lrn& lrn, const float* terms, int64_t slots, int64_t c,
                         const float* x, float* dx) {
  const int64_t first = std::max<int64_t>(0, c - lrn.half);
  const int64_t last = std::min(lrn.channels - 1, c + lrn.half);
  const float factor = 2 * lrn.scale * lrn.beta;
  float sum[kTile];
  for (int64_t start = 0; start < lrn.plane; start += kTile) {
    const int64_t width = std::min(kTile, lrn.plane - start);
    for (int64_t p = 0; p < width; ++p) sum[p] = 0;
    for (int64_t j = first; j <= last; ++j) {
      const float* term = terms + j % slots * lrn.plane + start;
      for (int64_t p = 0; p < width; ++p) sum[p] += term[p];
    }
    for (int64_t p = 0; p < width; ++p) {
      const float value = x[start + p];
      const float whole = dx[start + p] - factor * rectified(lrn, value) * sum[p];
      dx[start + p] = lrn.relu && !(value > 0) ? 0 : whole;
    }
  }
}

// `planes` channels of memory that is the calling thread's.
float* scratch(const Lrn& lrn, int64_t planes) {
  static thread_local std::vector<float> buffer;
  buffer.resize(planes * lrn.plane);
  return buffer.data();
}

// Channels [first, last) of an image: x -> y.
void forward_channels(const Lrn& lrn, const float* x, int64_t first, int64_t last, float* y) {
  float* const s = scratch(lrn, 3);
  float *const power = s + lrn.plane, *const whole = power + lrn.plane;
  for (int64_t c = first; c < last; ++c) {
    float* const out = y + c * lrn.out_plane;
    normalise(lrn, x, c, s, power, lrn.pooled ? whole : out);
    if (lrn.pooled) pool_plane(lrn.pool, whole, s, out);
  }
}

// Channels [first, last) of an image's dx; those beside them are computed as far as they matter.
void backward_channels(const Lrn& lrn, const float* g, const float* x, const float* y,
                       int64_t first, int64_t last, float* dx) {
  const int64_t slots = std::min(lrn.channels, 2 * lrn.half + 1);
  float* const s = scratch(lrn, 5 + slots);
  float *const power = s + lrn.plane, *const whole = power + lrn.plane;
  float *const spread = whole + lrn.plane, *const beside = spread + lrn.plane;
  float* const terms = beside + lrn.plane;
  for (int64_t c = std::max<int64_t>(0, first - lrn.half); c < last + lrn.half; ++c) {
    if (c < lrn.channels) {
      const float* gradient = g + c * lrn.out_plane;
      normalise(lrn, x, c, s, power, whole);
      if (lrn.pooled) {
        unpool_plane(lrn.pool, gradient, y + c * lrn.out_plane, whole, spread);
        gradient = spread;
      }
      differentiate(lrn, gradient, x + c * lrn.plane, s, power,
                    first <= c && c < last ? dx + c * lrn.plane : beside,
                    terms + c % slots * lrn.plane);
    }
    const int64_t ready = c - lrn.half;  // the channel whose window ends with c
    if (ready >= first)
      complete(lrn, terms, slots, ready, x + ready * lrn.plane, dx + ready * lrn.plane);
  }
}

// Calls work(image, its first channel, its last + 1) so that all threads have as many channels.
template <typename Work>
void share(const Lrn& lrn, Work work) {
#pragma omp parallel
  {
    const int64_t all = lrn.images * lrn.channels, threads = omp_get_num_threads();
    const int64_t end = all * (omp_get_thread_num() + 1) / threads;
    for (int64_t at = all * omp_get_thread_num() / threads; at < end;) {
      const int64_t image = at / lrn.channels, first = at % lrn.channels;
      const int64_t last = std::min(lrn.channels, first + end - at);
      work(image, first, last);
      at += last - first;
    }
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
  if (!has(attrs, "kernel")) return MX_SUCCESS;
  Pool pool;
  if (!parse(attrs, in->at(0), &pool)) {
    MX_ERROR_MSG << "_alexnet_lrn pools (N, C, H, W), with kernel and stride that fit it";
    return MX_FAIL;
  }
  for (int i = 0; i < 2; ++i) out->at(0)[2 + i] = static_cast<unsigned int>(pool.out[i]);
  return MX_SUCCESS;
}

MXReturnValue lrn_forward(const Attributes& attrs, std::vector<MXTensor>* in,
                          std::vector<MXTensor>* out, const OpResource&) {
  const Lrn lrn = parse(attrs, in->at(0).shape);
  const float* x = in->at(0).data<float>();
  float* y = out->at(0).data<float>();
  share(lrn, [&](int64_t image, int64_t first, int64_t last) {
    forward_channels(lrn, x + image * lrn.channels * lrn.plane, first, last,
                     y + image * lrn.channels * lrn.out_plane);
  });
  return MX_SUCCESS;
}

// in: the output's gradient, the input, the output
MXReturnValue lrn_backward(const Attributes& attrs, std::vector<MXTensor>* in,
                           std::vector<MXTensor>* out, const OpResource&) {
  const Lrn lrn = parse(attrs, in->at(1).shape);
  const float *g = in->at(0).data<float>(), *x = in->at(1).data<float>();
  const float* y = in->at(2).data<float>();
  float* dx = out->at(0).data<float>();
  share(lrn, [&](int64_t image, int64_t first, int64_t last) {
    const int64_t at = image * lrn.channels * lrn.plane;
    const int64_t out_at = image * lrn.channels * lrn.out_plane;
    backward_channels(lrn, g + out_at, x + at, y + out_at, first, last, dx + at);
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
