// Max pooling of one (H, W) plane, and its gradient.
#ifndef NATIVE_MAX_POOL_H_
#define NATIVE_MAX_POOL_H_

#include <algorithm>
#include <cstdio>
#include <vector>

#include "common.h"

namespace {

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

// Of (N, C, H, W) arrays, with Pooling's attributes; false if they do not fit the shape.
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

}  // namespace

#endif  // NATIVE_MAX_POOL_H_
