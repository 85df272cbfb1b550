// Fully connected layers of one image of an int8 network: for each input that is not zero its
// weights times it are added to all sums.
//
// Reading the weights takes the time. Those of an input lie side by side, so those of inputs that
// are zero are not read. Behind a relu most inputs of a trained network are. VNNI multiplies fours:
// the weights of four inputs are brought into that order on the way. That leaves the sums of each
// 64 filters in an order of its own, for which the weights lie in the inverse one:
// common/graph/int8_operators.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "int8_product.h"
#include "variants.h"

namespace {

const int64_t kUnitOfInput = 64;  // an input has a multiple of so many weights, the last ones 0
const int kInputsTogether = 8;

// Inputs that are not zero, a multiple of kInputsTogether: what is missing is 0 times some weights.
struct NonZeroInputs {
  std::vector<const int8_t*> weights;
  std::vector<uint8_t> values;
  NonZeroInputs(const uint8_t* x, int64_t inputs, const int8_t* w, int64_t row) {
    for (int64_t i = 0; i < inputs; ++i)
      if (x[i] != 0) add(x[i], w + i * row);
    while (values.size() % kInputsTogether) add(0, w);
  }
  void add(uint8_t value, const int8_t* w) {
    values.push_back(value);
    weights.push_back(w);
  }
};

// The filter whose weights are the i-th of 64.
inline int64_t filter_of_place(int64_t i) { return i / 16 * 4 + i % 16 / 4 * 16 + i % 4; }

// Adds to the sums of filters [first, last), multiples of kUnitOfInput.
struct AddInt8Inputs {
  static INLINED void run(const NonZeroInputs& inputs, int64_t first, int64_t last,
                          int32_t* sums) {
    for (size_t i = 0; i < inputs.values.size(); ++i)
      for (int64_t f = first; f < last; f += kUnitOfInput)
        for (int64_t j = 0; j < kUnitOfInput; ++j)
          sums[f - first + filter_of_place(j)] += inputs.values[i] * inputs.weights[i][f + j];
  }
};

#ifdef HAS_VNNI

INLINED Ints16 low_bytes(const Ints16& a, const Ints16& b) {
  Ints16 both;
  asm("vpunpcklbw %2, %1, %0" : "=v"(both) : "v"(a), "v"(b));
  return both;
}
INLINED Ints16 high_bytes(const Ints16& a, const Ints16& b) {
  Ints16 both;
  asm("vpunpckhbw %2, %1, %0" : "=v"(both) : "v"(a), "v"(b));
  return both;
}
INLINED Ints16 low_pairs(const Ints16& a, const Ints16& b) {
  Ints16 both;
  asm("vpunpcklwd %2, %1, %0" : "=v"(both) : "v"(a), "v"(b));
  return both;
}
INLINED Ints16 high_pairs(const Ints16& a, const Ints16& b) {
  Ints16 both;
  asm("vpunpckhwd %2, %1, %0" : "=v"(both) : "v"(a), "v"(b));
  return both;
}

// Meanwhile the weights of the next inputs are fetched.
AVX512 void add_int8_inputs_512(const NonZeroInputs& inputs, int64_t first, int64_t last,
                                int32_t* sums) {
  const int64_t count = inputs.values.size();
  for (int64_t i = 0; i < count; i += kInputsTogether) {
    const int8_t* const* const weights = &inputs.weights[i];
    const int8_t* const* const next = weights + (i + kInputsTogether < count) * kInputsTogether;
    Ints16 values[2];
    for (int k = 0; k < 2; ++k) {
      int32_t four;
      std::memcpy(&four, &inputs.values[i + 4 * k], 4);
      values[k] = four - Ints16{};
    }
    for (int64_t f = first; f < last; f += kUnitOfInput) {
      int32_t* const to = sums + f - first;
      Ints16 all[4];
      std::memcpy(all, to, sizeof(all));
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        Ints16 rows[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          std::memcpy(&rows[j], weights[4 * k + j] + f, sizeof(Ints16));
          __builtin_prefetch(next[4 * k + j] + f, 0, 2);
        }
        const Ints16 low[] = {low_bytes(rows[0], rows[1]), low_bytes(rows[2], rows[3])};
        const Ints16 high[] = {high_bytes(rows[0], rows[1]), high_bytes(rows[2], rows[3])};
        add_products(&all[0], values[k], low_pairs(low[0], low[1]));
        add_products(&all[1], values[k], high_pairs(low[0], low[1]));
        add_products(&all[2], values[k], low_pairs(high[0], high[1]));
        add_products(&all[3], values[k], high_pairs(high[0], high[1]));
      }
      std::memcpy(to, all, sizeof(all));
    }
  }
}

#endif

void add_int8_inputs(const NonZeroInputs& inputs, int64_t first, int64_t last, int32_t* sums) {
#ifdef HAS_VNNI
  if (kVnni512) return add_int8_inputs_512(inputs, first, last, sums);
#endif
  dispatch<AddInt8Inputs>(inputs, first, last, sums);
}

}  // namespace
