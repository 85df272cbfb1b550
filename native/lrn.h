// _alexnet_lrn: local response normalization across channels, and its gradient. If asked for, a
// relu before it and max pooling after it are done in the same pass, a channel of an image at a
// time, while that is in the cache: apart, the three move several times as much memory.
//
// MXNet's own forward pass is right, its gradient is not: common/graph/stock_lrn.py says why.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common.h"
#include "max_pool.h"
#include "parallel.h"
#include "variants.h"

namespace {

const int64_t kTile = 512;  // positions handled together: what is made of them stays in the cache

struct Lrn {
  int64_t images, channels, plane, half;
  float scale, beta, knorm;  // scale: alpha / nsize
  bool relu, pooled;
  Pool pool;
  int64_t out_plane;
};

Lrn lrn_of(const Attributes& attrs, const Shape& x) {
  const int64_t nsize = read_integer(attrs, "nsize", 0, std::numeric_limits<int64_t>::min());
  if (nsize < 1 || x.size() < 2)
    throw Refused("_alexnet_lrn needs nsize of at least 1, and channels as the second axis");
  Lrn lrn;
  lrn.images = x[0];
  lrn.channels = x[1];
  lrn.plane = 1;
  for (size_t i = 2; i < x.size(); ++i) {
    if (x[i] != kUnknownSide) lrn.plane *= x[i];
    if (lrn.plane > kLargest) throw Refused("_alexnet_lrn: " + text_of(x) + " is too large");
  }
  // As MXNet's: an even window is one narrower, alpha is not.
  lrn.half = std::max<int64_t>(0, std::min((nsize - 1) / 2, lrn.channels - 1));
  lrn.scale = static_cast<float>(read_number(attrs, "alpha", 1e-4) / nsize);
  lrn.beta = static_cast<float>(read_number(attrs, "beta", 0.75));
  lrn.knorm = static_cast<float>(read_number(attrs, "knorm", 2));
  lrn.relu = read_relu(attrs);
  lrn.pooled = has(attrs, "kernel");
  if (lrn.pooled) lrn.pool = pool_of(attrs, x);
  lrn.out_plane = lrn.pooled ? lrn.pool.out_plane() : lrn.plane;
  return lrn;
}

Shape out_shape(const Lrn& lrn, const Shape& x) {
  return lrn.pooled ? pooled_shape(lrn.pool, x) : x;
}

// The value that is normalised: x, or relu(x). NaN stays NaN.
INLINED float rectified(const Lrn& lrn, float x) {
  return lrn.relu && x < 0 ? 0 : x;
}

// s^-beta; 0.75 is AlexNet's, and square roots are vector instructions.
INLINED float power_of(const Lrn& lrn, float s) {
  if (lrn.beta != 0.75f) return std::pow(s, -lrn.beta);
  const float root = std::sqrt(s);
  return 1.0f / (root * std::sqrt(root));
}

// Channel c of y = x s^-beta, with s = knorm + scale * (sum of x^2 over c's window), which is kept,
// as is s^-beta. x: an image; the others: a channel.
struct Normalise {
  static INLINED void run(const Lrn& lrn, const float* x, int64_t c, float* __restrict s,
                          float* __restrict power, float* __restrict y) {
    const int64_t first = std::max<int64_t>(0, c - lrn.half);
    const int64_t last = std::min(lrn.channels - 1, c + lrn.half);
    const float *const low = x + first * lrn.plane, *const row = x + c * lrn.plane;
    if (last - first == 4 && lrn.beta == 0.75f) {  // AlexNet's: all in one pass
      for (int64_t p = 0; p < lrn.plane; ++p) {
        float sum = 0;
        for (int64_t j = 0; j < 5; ++j) {
          const float value = rectified(lrn, low[j * lrn.plane + p]);
          sum += value * value;
        }
        s[p] = lrn.knorm + lrn.scale * sum;
        power[p] = power_of(lrn, s[p]);
        y[p] = rectified(lrn, row[p]) * power[p];
      }
      return;
    }
    for (int64_t p = 0; p < lrn.plane; ++p) s[p] = 0;
    for (int64_t j = first; j <= last; ++j)
      for (int64_t p = 0; p < lrn.plane; ++p) {
        const float value = rectified(lrn, x[j * lrn.plane + p]);
        s[p] += value * value;
      }
    for (int64_t p = 0; p < lrn.plane; ++p) {
      s[p] = lrn.knorm + lrn.scale * s[p];
      power[p] = power_of(lrn, s[p]);
      y[p] = rectified(lrn, row[p]) * power[p];
    }
  }
};

// The gradient is dx_c = g_c s_c^-beta - 2 alpha beta / nsize x_c sum_j g_j x_j s_j^(-beta-1), with
// j over c's window: here its first term and what channel c adds to the sums. x: a channel.
struct Differentiate {
  static INLINED void run(const Lrn& lrn, const float* g, const float* x, const float* s,
                         const float* power, float* dx, float* term) {
    for (int64_t p = 0; p < lrn.plane; ++p) {
      dx[p] = g[p] * power[p];
      term[p] = dx[p] * rectified(lrn, x[p]) / s[p];
    }
  }
};

// The rest of channel c's gradient; channel j's terms are at j % slots.
struct Complete {
  static INLINED void run(const Lrn& lrn, const float* terms, int64_t slots, int64_t c,
                         const float* x, float* dx) {
    const int64_t first = std::max<int64_t>(0, c - lrn.half);
    const int64_t last = std::min(lrn.channels - 1, c + lrn.half);
    const float factor = 2 * lrn.scale * lrn.beta;
    const auto of = [&](int64_t j) { return terms + j % slots * lrn.plane; };
    const auto complete = [&](int64_t p, float sum) {
      const float whole = dx[p] - factor * rectified(lrn, x[p]) * sum;
      dx[p] = lrn.relu && !(x[p] > 0) ? 0 : whole;
    };
    if (last - first == 4) {  // AlexNet's window, in one pass
      const float *const a = of(first), *const b = of(first + 1), *const m = of(first + 2);
      const float *const y = of(first + 3), *const z = of(last);
      for (int64_t p = 0; p < lrn.plane; ++p) complete(p, a[p] + b[p] + m[p] + y[p] + z[p]);
      return;
    }
    float sum[kTile];
    for (int64_t start = 0; start < lrn.plane; start += kTile) {
      const int64_t width = std::min(kTile, lrn.plane - start);
      for (int64_t p = 0; p < width; ++p) sum[p] = 0;
      for (int64_t j = first; j <= last; ++j)
        for (int64_t p = 0; p < width; ++p) sum[p] += of(j)[start + p];
      for (int64_t p = 0; p < width; ++p) complete(start + p, sum[p]);
    }
  }
};

// Memory of the calling thread for `planes` channels.
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
    dispatch<Normalise>(lrn, x, c, s, power, lrn.pooled ? whole : out);
    if (lrn.pooled) dispatch<PoolPlane>(lrn.pool, whole, s, out);
  }
}

// Channels [first, last) of an image's dx. Of their neighbours only the terms are computed.
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
      dispatch<Normalise>(lrn, x, c, s, power, whole);
      if (lrn.pooled) {
        unpool_plane(lrn.pool, gradient, y + c * lrn.out_plane, whole, spread);
        gradient = spread;
      }
      dispatch<Differentiate>(lrn, gradient, x + c * lrn.plane, s, power,
                    first <= c && c < last ? dx + c * lrn.plane : beside,
                    terms + c % slots * lrn.plane);
    }
    const int64_t ready = c - lrn.half;  // the channel whose window ends with c
    if (ready >= first)
      dispatch<Complete>(lrn, terms, slots, ready, x + ready * lrn.plane, dx + ready * lrn.plane);
  }
}

// Calls work(image, first channel, last channel + 1); all threads have equally many channels.
template <typename Work>
void for_each_range_of_channels(const Lrn& lrn, const Work& work) {
  split(lrn.images * lrn.channels, [&](int64_t at, int64_t end) {
    while (at < end) {
      const int64_t image = at / lrn.channels, first = at % lrn.channels;
      const int64_t last = std::min(lrn.channels, first + end - at);
      work(image, first, last);
      at += last - first;
    }
  });
}

void lrn_shape(const Attributes& attrs, std::vector<Shape>* in, std::vector<Shape>* out) {
  out->at(0) = out_shape(lrn_of(attrs, in->at(0)), in->at(0));
}

void lrn_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Shape shape = in[0].shape;
  const Lrn lrn = lrn_of(attrs, shape);
  const float* const x = floats(in[0], shape, "the input");
  float* const y = floats(out[0], out_shape(lrn, shape), "the output");
  for_each_range_of_channels(lrn, [&](int64_t image, int64_t first, int64_t last) {
    forward_channels(lrn, x + image * lrn.channels * lrn.plane, first, last,
                     y + image * lrn.channels * lrn.out_plane);
  });
}

// in: the output's gradient, the input, the output
void lrn_backward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Shape shape = in[1].shape;
  const Lrn lrn = lrn_of(attrs, shape);
  const float* const g = floats(in[0], out_shape(lrn, shape), "the output's gradient");
  const float* const x = floats(in[1], shape, "the input");
  const float* const y = floats(in[2], out_shape(lrn, shape), "the output");
  float* const dx = floats(out[0], shape, "the input's gradient");
  for_each_range_of_channels(lrn, [&](int64_t image, int64_t first, int64_t last) {
    const int64_t at = image * lrn.channels * lrn.plane;
    const int64_t out_at = image * lrn.channels * lrn.out_plane;
    backward_channels(lrn, g + out_at, x + at, y + out_at, first, last, dx + at);
  });
}

}  // namespace

REGISTER_OP(_alexnet_lrn)
    .setParseAttrs(counts<1, 1>)
    .setInferType(float32_only)
    .setInferShape(infer_shape<lrn_shape>)
    .setForward(compute<lrn_forward>, "cpu")
    .setBackward(compute<lrn_backward>, "cpu");
