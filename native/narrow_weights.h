// Weights in words of 32 bits: one of float32; two of bfloat16, which is the upper half of a
// float32; or four of int8.
//
// A vector of words gives a vector of their first weights, then one of their second ones, and so
// on. So narrow weights are used in an order of their own. What they are multiplied with is brought
// into that order first, or, where a row has an input's weights, the sums out of it.
#pragma once

#include <cstdint>
#include <cstring>

#include "product.h"

namespace {

const int64_t kUnit = 64;  // a row of narrow weights has a multiple of so many, the last ones 0

template <typename Vector>
struct WordsOf {
  typedef int32_t Words __attribute__((vector_size(sizeof(Vector))));
  static INLINED Words load(const int32_t* from) {
    Words words;
    std::memcpy(&words, from, sizeof(words));
    return words;
  }
};

struct FloatWeights {
  static const int kOfWord = 1;
  template <typename Vector, typename Words>
  static INLINED Vector take(const Words& words, int) {
    Vector weights;
    std::memcpy(&weights, &words, sizeof(weights));
    return weights;
  }
};

struct Bfloat16Weights {
  static const int kOfWord = 2;
  template <typename Vector, typename Words>
  static INLINED Vector take(const Words& words, int i) {
    const Words bits = i == 0 ? words << 16 : words & -65536;
    return FloatWeights::take<Vector>(bits, 0);
  }
};

struct ByteWeights {
  static const int kOfWord = 4;
  template <typename Vector, typename Words>
  static INLINED Vector take(const Words& words, int i) {
    return __builtin_convertvector(words << (24 - 8 * i) >> 24, Vector);
  }
};

// `count` values times `scale`, then zeros up to `row`, in the order of weights of which `of_word`
// are in a word.
void arrange(const float* from, int64_t count, int64_t row, float scale, int of_word, float* to) {
  const int64_t width = best_kernel().width, block = width * of_word;
  for (int64_t i = 0; i < row; i += block)
    for (int64_t lane = 0; lane < width; ++lane)
      for (int j = 0; j < of_word; ++j) {
        const int64_t at = i + lane * of_word + j;
        to[i + j * width + lane] = at < count ? scale * from[at] : 0;
      }
}

// `count` weights as float32, in their order.
template <typename Weights>
struct Widen {
  template <typename Vector>
  static INLINED void run(const int32_t* words, int64_t count, float* to) {
    const int64_t width = sizeof(Vector) / sizeof(float);
    for (int64_t i = 0; i < count; i += Weights::kOfWord * width, words += width)
#pragma GCC unroll 4
      for (int j = 0; j < Weights::kOfWord; ++j)
        store(Weights::template take<Vector>(WordsOf<Vector>::load(words), j), to + i + j * width);
  }
};

}  // namespace
