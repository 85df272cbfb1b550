// _alexnet_max_pool: max pooling, and its gradient. What handles one (H, W) plane is LRN's, too.
#ifndef NATIVE_MAX_POOL_H_
#define NATIVE_MAX_POOL_H_

#include <algorithm>
#include <vector>

#include "common.h"

namespace {

struct Pool {
  int64_t kernel[2], stride[2];  // rows, columns
  int64_t in[2], out[2];
};

// Of (N, C, H, W) arrays, with Pooling's attributes; false if they do not fit the shape.
template <typename Size>
bool parse(const Attributes& attrs, const std::vector<Size>& shape, Pool* pool) {
  if (shape.size() != 4 || !pair(attrs, "kernel", 1, pool->kernel) ||
      !pair(attrs, "stride", 1, pool->stride))
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

// The maximum down each window's rows first, which is a vector operation; down: a row of x.
DISPATCHED void pool_plane(const Pool& pool, const float* x, float* down, float* y) {
  const int64_t width = pool.in[1];
  for (int64_t row = 0; row < pool.out[0]; ++row, y += pool.out[1]) {
    const int64_t top = row * pool.stride[0];
    const int64_t bottom = std::min(pool.in[0], top + pool.kernel[0]);
    for (int64_t p = 0; p < width; ++p) down[p] = x[top * width + p];
    for (int64_t r = top + 1; r < bottom; ++r)
      for (int64_t p = 0; p < width; ++p)
        down[p] = down[p] < x[r * width + p] ? x[r * width + p] : down[p];
    for (int64_t o = 0; o < pool.out[1]; ++o) {
      const int64_t start = o * pool.stride[1], end = std::min(width, start + pool.kernel[1]);
      float most = down[start];
      for (int64_t p = start + 1; p < end; ++p) most = most < down[p] ? down[p] : most;
      y[o] = most;
    }
  }
}

// Each output's gradient goes to the first of its window's values that equals it.
void unpool_plane(const Pool& pool, const float* g, const float* y, const float* x, float* dx) {
  const int64_t width = pool.in[1];
  std::fill_n(dx, pool.in[0] * width, 0.0f);
  for (int64_t row = 0; row < pool.out[0]; ++row) {
    const int64_t top = row * pool.stride[0];
    const int64_t bottom = std::min(pool.in[0], top + pool.kernel[0]);
    for (int64_t o = 0; o < pool.out[1]; ++o, ++y, ++g) {
      const int64_t start = o * pool.stride[1], end = std::min(width, start + pool.kernel[1]);
      int64_t found = top * width + start;
      // No branch on the values, which could not be predicted; none is above the maximum.
      for (int64_t r = bottom - 1; r >= top; --r)
        for (int64_t p = end - 1; p >= start; --p)
          found = x[r * width + p] >= *y ? r * width + p : found;
      dx[found] += *g;
    }
  }
}

MXReturnValue max_pool_shape(const Attributes& attrs, std::vector<std::vector<unsigned int>>* in,
                             std::vector<std::vector<unsigned int>>* out) {
  Pool pool;
  if (!parse(attrs, in->at(0), &pool)) {
    MX_ERROR_MSG << "_alexnet_max_pool takes (N, C, H, W), with kernel and stride that fit it";
    return MX_FAIL;
  }
  out->at(0) = in->at(0);
  for (int i = 0; i < 2; ++i) out->at(0)[2 + i] = static_cast<unsigned int>(pool.out[i]);
  return MX_SUCCESS;
}

MXReturnValue max_pool_forward(const Attributes& attrs, std::vector<MXTensor>* in,
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
    pool_plane(pool, x + i * pool.in[0] * pool.in[1], down.data(),
               y + i * pool.out[0] * pool.out[1]);
  }
  return MX_SUCCESS;
}

// in: the output's gradient, the input, the output
MXReturnValue max_pool_backward(const Attributes& attrs, std::vector<MXTensor>* in,
                                std::vector<MXTensor>* out, const OpResource&) {
  Pool pool;
  if (!parse(attrs, in->at(1).shape, &pool)) return MX_FAIL;
  const float *g = in->at(0).data<float>(), *x = in->at(1).data<float>();
  const float* y = in->at(2).data<float>();
  float* dx = out->at(0).data<float>();
  const int64_t planes = in->at(1).shape[0] * in->at(1).shape[1];
  const int64_t plane = pool.in[0] * pool.in[1], out_plane = pool.out[0] * pool.out[1];
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < planes; ++i)
    unpool_plane(pool, g + i * out_plane, y + i * out_plane, x + i * plane, dx + i * plane);
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(_alexnet_max_pool)
    .setParseAttrs(one_to_one)
    .setInferType(float32_only)
    .setInferShape(max_pool_shape)
    .setForward(max_pool_forward, "cpu")
    .setBackward(max_pool_backward, "cpu");

#endif  // NATIVE_MAX_POOL_H_
