// _alexnet_max_pool: max pooling, and its gradient. lrn.h also uses the functions for one plane,
// int8_convolution.h the sizes.
#pragma once

#include <algorithm>
#include <vector>

#include "common.h"
#include "parallel.h"
#include "variants.h"
#ifdef HAS_VARIANTS
#include <immintrin.h>
#endif

namespace {

struct Pool {
  int64_t kernel[2], stride[2];  // rows, columns
  int64_t in[2], out[2];
  int64_t in_plane() const { return in[0] * in[1]; }
  int64_t out_plane() const { return out[0] * out[1]; }
};

// The pooling of (N, C, H, W) arrays that Pooling's attributes describe.
Pool pool_of(const Attributes& attrs, const Shape& x) {
  Pool pool;
  read_pair(attrs, "kernel", 1, pool.kernel);
  read_pair(attrs, "stride", 1, pool.stride);
  const bool full =
      has(attrs, "pooling_convention") && attrs.at("pooling_convention") == "full";
  for (int i = 0; i < 2; ++i) {
    pool.in[i] = x.size() == 4 ? x[2 + i] : 0;
    const int64_t room = pool.in[i] - pool.kernel[i];
    pool.out[i] = (room + (full ? pool.stride[i] - 1 : 0)) / pool.stride[i] + 1;
    // 'full' rounds up: with a stride above the kernel, the last window may begin beyond the map.
    if (room < 0 || (pool.out[i] - 1) * pool.stride[i] >= pool.in[i])
      throw Refused("max pooling takes (N, C, H, W), with kernel and stride that fit it, not " +
                    text_of(x));
  }
  return pool;
}

Shape pooled_shape(const Pool& pool, const Shape& x) {
  return {x[0], x[1], pool.out[0], pool.out[1]};
}

template <typename Value>
INLINED Value larger(Value a, Value b) {
  return a < b ? b : a;
}

// A plane x -> y. The maximum down each window's rows comes first, which is a vector operation;
// column_maxima: memory for a row of x.
struct PoolPlane {
  static INLINED void run(const Pool& pool, const float* x, float* column_maxima, float* y) {
    const int64_t width = pool.in[1], count = pool.out[1];
    float* const most = column_maxima;
    for (int64_t row = 0; row < pool.out[0]; ++row, y += count) {
      const int64_t top = row * pool.stride[0];
      const int64_t bottom = std::min(pool.in[0], top + pool.kernel[0]);
      const float* const rows = x + top * width;
      if (bottom - top == 3) {
        for (int64_t p = 0; p < width; ++p)
          most[p] = larger(larger(rows[p], rows[width + p]), rows[2 * width + p]);
      } else {
        for (int64_t p = 0; p < width; ++p) most[p] = rows[p];
        for (int64_t r = 1; r < bottom - top; ++r)
          for (int64_t p = 0; p < width; ++p) most[p] = larger(most[p], rows[r * width + p]);
      }
      if (pool.stride[1] == 2 && pool.kernel[1] == 3 && 2 * count < width) {
        for (int64_t o = 0; o < count; ++o)
          y[o] = larger(larger(most[2 * o], most[2 * o + 1]), most[2 * o + 2]);
        continue;
      }
      for (int64_t o = 0; o < count; ++o) {
        const int64_t start = o * pool.stride[1], end = std::min(width, start + pool.kernel[1]);
        float value = most[start];
        for (int64_t p = start + 1; p < end; ++p) value = value < most[p] ? most[p] : value;
        y[o] = value;
      }
    }
  }
};

// Where in a window, a part of rows of `width`, the first value is that is not below its maximum.
INLINED int64_t first_of(const float* window, int64_t rows, int64_t columns, int64_t width,
                         float maximum) {
  int64_t found = 0;  // no branch on the values, which could not be predicted
  for (int64_t r = rows - 1; r >= 0; --r)
    for (int64_t p = columns - 1; p >= 0; --p)
      found = window[r * width + p] >= maximum ? r * width + p : found;
  return found;
}

#ifdef HAS_VARIANTS
// first_of's value among the nine of a 3x3 window. Of each row four values are read.
INLINED int first_of_nine(const float* window, int64_t width, float maximum) {
  const auto reached = [&](int64_t row) INLINED_LAMBDA {
    const __m128 values = _mm_loadu_ps(window + row * width);
    return _mm_movemask_ps(_mm_cmpge_ps(values, _mm_set1_ps(maximum))) & 7;
  };
  const int all = reached(0) | reached(1) << 3 | reached(2) << 6;
  return all ? __builtin_ctz(all) : 0;
}
#endif

// Each output's gradient goes to the first of its window's values that equals it.
void unpool_plane(const Pool& pool, const float* g, const float* y, const float* x, float* dx) {
  const int64_t width = pool.in[1];
  int64_t places[9];  // in a 3x3 window
  for (int64_t i = 0; i < 9; ++i) places[i] = i / 3 * width + i % 3;
  std::fill_n(dx, pool.in_plane(), 0.0f);
  for (int64_t row = 0; row < pool.out[0]; ++row, y += pool.out[1], g += pool.out[1]) {
    const int64_t top = row * pool.stride[0];
    const int64_t rows = std::min(pool.in[0] - top, pool.kernel[0]);
    int64_t o = 0;
#ifdef HAS_VARIANTS
    // The last column with four values in each row.
    const int64_t last = std::min(width - 3, pool.in_plane() - (top + 2) * width - 4);
    if (rows == 3 && pool.kernel[1] == 3)
      for (; o < pool.out[1] && o * pool.stride[1] <= last; ++o) {
        const int64_t start = top * width + o * pool.stride[1];
        dx[start + places[first_of_nine(x + start, width, y[o])]] += g[o];
      }
#endif
    for (; o < pool.out[1]; ++o) {
      const int64_t column = o * pool.stride[1], start = top * width + column;
      const int64_t columns = std::min(width - column, pool.kernel[1]);
      dx[start + first_of(x + start, rows, columns, width, y[o])] += g[o];
    }
  }
}

void max_pool_shape(const Attributes& attrs, std::vector<Shape>* in, std::vector<Shape>* out) {
  out->at(0) = pooled_shape(pool_of(attrs, in->at(0)), in->at(0));
}

void max_pool_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Shape shape = in[0].shape;
  const Pool pool = pool_of(attrs, shape);
  const float* const x = floats(in[0], shape, "the input");
  float* const y = floats(out[0], pooled_shape(pool, shape), "the output");
  split(shape[0] * shape[1], [&](int64_t first, int64_t last) {
    std::vector<float> column_maxima(pool.in[1]);
    for (int64_t i = first; i < last; ++i)
      dispatch<PoolPlane>(pool, x + i * pool.in_plane(), column_maxima.data(),
                          y + i * pool.out_plane());
  });
}

// in: the output's gradient, the input, the output
void max_pool_backward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Shape shape = in[1].shape;
  const Pool pool = pool_of(attrs, shape);
  const float* const g = floats(in[0], pooled_shape(pool, shape), "the output's gradient");
  const float* const x = floats(in[1], shape, "the input");
  const float* const y = floats(in[2], pooled_shape(pool, shape), "the output");
  float* const dx = floats(out[0], shape, "the input's gradient");
  parallel_for(shape[0] * shape[1], [&](int64_t i) {
    unpool_plane(pool, g + i * pool.out_plane(), y + i * pool.out_plane(), x + i * pool.in_plane(),
                 dx + i * pool.in_plane());
  });
}

}  // namespace

REGISTER_OP(_alexnet_max_pool)
    .setParseAttrs(counts<1, 1>)
    .setInferType(float32_only)
    .setInferShape(infer_shape<max_pool_shape>)
    .setForward(compute<max_pool_forward>, "cpu")
    .setBackward(compute<max_pool_backward>, "cpu");
