// Operators for training on the CPU, through the extension interface that MXNet 1.9.1 ships
// (mxnet/lib_api.h). They replace MXNet's own only while a module is bound: see common/lower.py
// and common/native.py.
//
//   _alexnet_lrn      local response normalization across channels, and its gradient
//   _alexnet_max_pool max pooling of plain (N, C, H, W) arrays, such as _alexnet_lrn makes
//   _alexnet_sgd_mom  momentum SGD, one pass over weight, gradient and momentum
//
// and a plain C function for the thread that reads images, which must not wait for the engine:
//   alexnet_normalize 8-bit images to float32: a shift of each plane, a scale of each channel

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <vector>

#include "mxnet/lib_api.h"

using namespace mxnet::ext;  // NOLINT: the interface is meant to be used so

typedef std::unordered_map<std::string, std::string> Attributes;

// One binary for every x86-64 processor: the loader picks the clone that this one can run.
#if defined(__x86_64__) && defined(__GNUC__)
#define DISPATCHED __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define DISPATCHED
#endif

namespace {

const int64_t kTile = 128;  // positions handled together: 512 bytes a channel

struct Lrn {
  int64_t channels, half;
  float scale, beta, knorm;  // scale: alpha / nsize
};

bool has(const Attributes& attrs, const char* name) { return attrs.find(name) != attrs.end(); }

double number(const Attributes& attrs, const char* name, double standard) {
  return has(attrs, name) ? std::atof(attrs.at(name).c_str()) : standard;
}

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

MXReturnValue float32_only(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  for (int type : *in) {
    if (type != kFloat32) {
      MX_ERROR_MSG << "this operator takes float32 only";
      return MX_FAIL;
    }
  }
  out->at(0) = kFloat32;
  return MX_SUCCESS;
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

MXReturnValue one_to_one(const Attributes&, int* inputs, int* outputs) {
  *inputs = *outputs = 1;
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

struct Pool {
  int64_t kernel[2], stride[2];  // rows, columns
  int64_t in[2], out[2];
};

// "(3, 2)" -> 3, 2; MXNet's way to write a pair.
bool pair(const Attributes& attrs, const char* name, int64_t* values) {
  long rows = 0, columns = 0;  // NOLINT: what sscanf takes
  const bool read = has(attrs, name) &&
                    std::sscanf(attrs.at(name).c_str(), "(%ld, %ld)", &rows, &columns) == 2;
  values[0] = rows;
  values[1] = columns;
  return read && rows > 0 && columns > 0;
}

template <typename Size>
bool parse(const Attributes& attrs, const std::vector<Size>& shape, Pool* pool) {
  if (shape.size() != 4 || !pair(attrs, "kernel", pool->kernel) ||
      !pair(attrs, "stride", pool->stride))
    return false;
  const bool full =
      has(attrs, "pooling_convention") && attrs.at("pooling_convention") == "full";
  for (int i = 0; i < 2; ++i) {
    pool->in[i] = static_cast<int64_t>(shape[2 + i]);
    const int64_t room = pool->in[i] - pool->kernel[i];
    if (room < 0) return false;
    pool->out[i] = (room + (full ? pool->stride[i] - 1 : 0)) / pool->stride[i] + 1;
  }
  return true;
}

// A row of the output: the maximum down the window's rows first, which is a vector operation.
DISPATCHED void pool_row(const Pool& pool, const float* x, int64_t rows, float* down, float* y) {
  const int64_t width = pool.in[1];
  for (int64_t p = 0; p < width; ++p) down[p] = x[p];
  for (int64_t r = 1; r < rows; ++r)
    for (int64_t p = 0; p < width; ++p)
      down[p] = down[p] < x[r * width + p] ? x[r * width + p] : down[p];
  for (int64_t o = 0; o < pool.out[1]; ++o) {
    const int64_t start = o * pool.stride[1], end = std::min(width, start + pool.kernel[1]);
    float most = down[start];
    for (int64_t p = start + 1; p < end; ++p) most = most < down[p] ? down[p] : most;
    y[o] = most;
  }
}

// Each output's gradient goes to the first of its window's values that equals it.
void unpool_row(const Pool& pool, const float* g, const float* y, const float* x, int64_t rows,
                float* dx) {
  const int64_t width = pool.in[1];
  for (int64_t o = 0; o < pool.out[1]; ++o) {
    const int64_t start = o * pool.stride[1], end = std::min(width, start + pool.kernel[1]);
    int64_t found = -1;
    for (int64_t r = 0; r < rows && found < 0; ++r)
      for (int64_t p = start; p < end && found < 0; ++p)
        if (x[r * width + p] == y[o]) found = r * width + p;
    if (found >= 0) dx[found] += g[o];
  }
}

MXReturnValue pool_shape(const Attributes& attrs, std::vector<std::vector<unsigned int>>* in,
                         std::vector<std::vector<unsigned int>>* out) {
  Pool pool;
  if (!parse(attrs, in->at(0), &pool)) {
    MX_ERROR_MSG << "_alexnet_max_pool needs (N, C, H, W), kernel and stride that fit it";
    return MX_FAIL;
  }
  out->at(0) = in->at(0);
  for (int i = 0; i < 2; ++i) out->at(0)[2 + i] = static_cast<unsigned int>(pool.out[i]);
  return MX_SUCCESS;
}

MXReturnValue pool_forward(const Attributes& attrs, std::vector<MXTensor>* in,
                           std::vector<MXTensor>* out, const OpResource&) {
  Pool pool;
  if (!parse(attrs, in->at(0).shape, &pool)) return MX_FAIL;
  const float* x = in->at(0).data<float>();
  float* y = out->at(0).data<float>();
  const int64_t planes = in->at(0).shape[0] * in->at(0).shape[1];
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < planes; ++i) {
    static thread_local std::vector<float> down;
    down.resize(pool.in[1]);
    for (int64_t o = 0; o < pool.out[0]; ++o) {
      const int64_t top = o * pool.stride[0];
      pool_row(pool, x + (i * pool.in[0] + top) * pool.in[1],
               std::min(pool.kernel[0], pool.in[0] - top), down.data(),
               y + (i * pool.out[0] + o) * pool.out[1]);
    }
  }
  return MX_SUCCESS;
}

// in: the output's gradient, the input, the output
MXReturnValue pool_backward(const Attributes& attrs, std::vector<MXTensor>* in,
                            std::vector<MXTensor>* out, const OpResource&) {
  Pool pool;
  if (!parse(attrs, in->at(1).shape, &pool)) return MX_FAIL;
  const float *g = in->at(0).data<float>(), *x = in->at(1).data<float>();
  const float* y = in->at(2).data<float>();
  float* dx = out->at(0).data<float>();
  const int64_t planes = in->at(1).shape[0] * in->at(1).shape[1];
  const int64_t plane = pool.in[0] * pool.in[1];
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < planes; ++i) {
    std::fill(dx + i * plane, dx + (i + 1) * plane, 0.0f);
    for (int64_t o = 0; o < pool.out[0]; ++o) {
      const int64_t top = o * pool.stride[0], row = (i * pool.out[0] + o) * pool.out[1];
      const int64_t start = i * plane + top * pool.in[1];
      unpool_row(pool, g + row, y + row, x + start, std::min(pool.kernel[0], pool.in[0] - top),
                 dx + start);
    }
  }
  return MX_SUCCESS;
}

DISPATCHED void normalize_plane(const uint8_t* x, float shift, float deviation, float* y,
                                int64_t size) {
  for (int64_t i = 0; i < size; ++i) y[i] = (x[i] + shift) / deviation;
}

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

REGISTER_OP(_alexnet_lrn)
    .setParseAttrs(one_to_one)
    .setInferType(float32_only)
    .setInferShape(lrn_shape)
    .setForward(lrn_forward, "cpu")
    .setBackward(lrn_backward, "cpu");

REGISTER_OP(_alexnet_max_pool)
    .setParseAttrs(one_to_one)
    .setInferType(float32_only)
    .setInferShape(pool_shape)
    .setForward(pool_forward, "cpu")
    .setBackward(pool_backward, "cpu");

REGISTER_OP(_alexnet_sgd_mom)
    .setParseAttrs(sgd_attributes)
    .setInferType(float32_only)
    .setInferShape(sgd_shape)
    .setMutateInputs(sgd_mutates)
    .setForward(sgd_forward, "cpu");

// y = (x + shift of the plane) / deviation of the channel; x and y are (images, channels, plane).
extern "C" void alexnet_normalize(const uint8_t* x, const float* shift, const float* deviation,
                                  float* y, int64_t images, int64_t channels, int64_t plane) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < images * channels; ++i) {
    normalize_plane(x + i * plane, shift[i], deviation[i % channels], y + i * plane, plane);
  }
}

MXReturnValue initialize(int version) {
  if (version >= 10900 && version < 20000) return MX_SUCCESS;
  MX_ERROR_MSG << "built for MXNet 1.9, not " << version;
  return MX_FAIL;
}
