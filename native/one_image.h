// Fully connected layers of one image: for each input that is not zero its weights times it are
// added to all outputs.
//
// Reading the weights takes the time. Those of an input lie side by side, so those of inputs that
// are zero are not read. Behind a relu most inputs of a trained network are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bfloat16.h"
#include "narrow_weights.h"
#include "parallel.h"
#include "product.h"

namespace {

const int kInputs = 6;  // that are added at a time

struct OneImage {
  const int32_t* w;  // a row for each input
  int64_t row;       // its words
  std::vector<int32_t> inputs;  // that are not zero
  std::vector<float> values;
};

void take_image(const float* x, int64_t inputs, bool round, OneImage* image) {
  image->inputs.clear();
  image->values.clear();
  for (int64_t i = 0; i < inputs; ++i) {
    const float value = round ? rounded(x[i]) : x[i];
    if (value == 0) continue;
    image->inputs.push_back(static_cast<int32_t>(i));
    image->values.push_back(value);
  }
}

#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

// Adds to the sums of words [first, last), multiples of kLine.
template <typename Weights>
struct AddInputs {
  // `count` inputs from the at-th on. Meanwhile the weights of the next ones are fetched.
  template <typename Vector, int count>
  static INLINED void add(const OneImage& image, int64_t at, int64_t first, int64_t last,
                          float* sums) {
    const int64_t width = sizeof(Vector) / sizeof(float);
    const int64_t end = static_cast<int64_t>(image.inputs.size()) - 1;
    const int32_t *rows[count], *next[count];
    float values[count];
    for (int i = 0; i < count; ++i) {
      rows[i] = image.w + image.inputs[at + i] * image.row;
      next[i] = image.w + image.inputs[std::min(at + count + i, end)] * image.row;
      values[i] = image.values[at + i];
    }
    for (int64_t line = first; line < last; line += kLine) {
#pragma GCC unroll 6
      for (int i = 0; i < count; ++i) __builtin_prefetch(next[i] + line, 0, 2);
      for (int64_t word = line; word < line + kLine; word += width) {
        typename WordsOf<Vector>::Words words[count];
#pragma GCC unroll 6
        for (int i = 0; i < count; ++i) words[i] = WordsOf<Vector>::load(rows[i] + word);
#pragma GCC unroll 4
        for (int j = 0; j < Weights::kOfWord; ++j, sums += width) {
          Vector sum = load<Vector>(sums);
#pragma GCC unroll 6
          for (int i = 0; i < count; ++i)
            sum += values[i] * Weights::template take<Vector>(words[i], j);
          store(sum, sums);
        }
      }
    }
  }

  template <typename Vector>
  static INLINED void run(const OneImage& image, int64_t first, int64_t last, float* sums) {
    const int64_t count = image.inputs.size();
    int64_t at = 0;
    for (; at + kInputs <= count; at += kInputs)
      add<Vector, kInputs>(image, at, first, last, sums);
    for (; at < count; ++at) add<Vector, 1>(image, at, first, last, sums);
  }
};

#pragma GCC pop_options

// y = scale x w^T + bias. Each thread computes some outputs. A row of w has a multiple of kUnit
// weights, so the sums come in the order that narrow_weights.h describes.
template <typename Weights>
void multiply_one_image(const OneImage& image, int64_t outputs, float scale, const float* bias,
                        float* y) {
  const int64_t width = best_kernel().width, of_word = Weights::kOfWord;
  split(image.row / (kUnit / of_word), [&](int64_t first, int64_t last) {
    static thread_local std::vector<float> buffer;
    const int64_t start = first * kUnit, end = std::min(outputs, last * kUnit);
    float* const sums = aligned(&buffer, (last - first) * kUnit);
    std::fill_n(sums, (last - first) * kUnit, 0.0f);
    with_vector<AddInputs<Weights>>(image, start / of_word, last * kUnit / of_word, sums);
    for (int64_t o = start; o < end; ++o) {
      const int64_t at = o - start, block = width * of_word, within = at % block;
      y[o] = bias[o] + scale * sums[at - within + within % of_word * width + within / of_word];
    }
  });
}

}  // namespace
