// Fully connected layers of a few images: dot products of each row of weights with all of them.
//
// Reading the weights takes the time. So they are read once, as they lie in memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "narrow_weights.h"
#include "parallel.h"
#include "product.h"

namespace {

const int64_t kFewImages = 7;  // with more, tiles of products are faster
const int64_t kFetched = 512;  // words that are prefetched before they are used

struct FewImages {  // y = x w^T + bias, of arrays without gaps
  const int32_t* w;
  const float *x, *bias;  // x: in the weights' order
  float* y;
  int64_t images, inputs, outputs;
};

#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

template <typename Weights>
struct MultiplyFew {
  // Rows of weights from `row` on with all images.
  template <typename Vector, int rows, int images>
  static INLINED void multiply_rows(const FewImages& all, int64_t row) {
    const int of_word = Weights::kOfWord;
    const int64_t width = sizeof(Vector) / sizeof(float), words = all.inputs / of_word;
    const int32_t* const w = all.w + row * words;
    const float* x = all.x;
    Vector sums[rows][images] = {};
    int64_t i = 0;
    for (; i + width <= words; i += width) {
      typename WordsOf<Vector>::Words loaded[rows];
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) {
        __builtin_prefetch(w + r * words + i + kFetched);
        loaded[r] = WordsOf<Vector>::load(w + r * words + i);
      }
#pragma GCC unroll 4
      for (int j = 0; j < of_word; ++j, x += width)
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const Vector weights = Weights::template take<Vector>(loaded[r], j);
#pragma GCC unroll 7
          for (int n = 0; n < images; ++n)
            sums[r][n] += weights * load<Vector>(x + n * all.inputs);
        }
    }
    for (int r = 0; r < rows; ++r)
      for (int n = 0; n < images; ++n) {
        float sum = all.bias[row + r];
        for (int64_t lane = 0; lane < width; ++lane) sum += sums[r][n][lane];
        for (int64_t rest = i; rest < words; ++rest)  // only of float32
          sum += FloatWeights::take<float>(w[r * words + rest], 0) * all.x[n * words + rest];
        all.y[n * all.outputs + row + r] = sum;
      }
  }

  template <typename Vector, int images>
  static INLINED void multiply(const FewImages& all, int64_t first, int64_t last) {
    const int rows = images < 4 ? 4 : 2;  // as many sums as registers hold
    int64_t row = first;
    for (; row + rows <= last; row += rows) multiply_rows<Vector, rows, images>(all, row);
    for (; row < last; ++row) multiply_rows<Vector, 1, images>(all, row);
  }

  template <typename Vector>
  static INLINED void run(const FewImages& all, int64_t first, int64_t last) {
    if (all.images == 1) return multiply<Vector, 1>(all, first, last);
    if (all.images == 2) return multiply<Vector, 2>(all, first, last);
    if (all.images == 3) return multiply<Vector, 3>(all, first, last);
    if (all.images == 4) return multiply<Vector, 4>(all, first, last);
    if (all.images == 5) return multiply<Vector, 5>(all, first, last);
    if (all.images == 6) return multiply<Vector, 6>(all, first, last);
    return multiply<Vector, 7>(all, first, last);
  }
};

#pragma GCC pop_options

// Each thread computes some rows. No sum depends on how many threads or images there are.
template <typename Weights>
void multiply_few_images(const FewImages& all) {
  split(all.outputs, [&](int64_t first, int64_t last) {
    with_vector<MultiplyFew<Weights>>(all, first, last);
  });
}

}  // namespace
