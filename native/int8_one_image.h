// Fully connected layers of one image of an int8 network: for each input that is not zero its
// weights times it are added to all sums.
//
// Reading the weights takes the time. Those of an input lie side by side, so those of inputs that
// are zero are not read. Behind a relu most inputs of a trained network are. VNNI multiplies fours:
// the weights of four inputs are brought into that order on the way, which leaves the sums of a
// vector's filters in an order of their own.
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

// Adds to the sums of filters [first, last), multiples of kUnitOfInput.
struct AddInt8Inputs {
  static INLINED void run(const NonZeroInputs& inputs, int64_t first, int64_t last,
                          int32_t* sums) {
    for (size_t i = 0; i < inputs.values.size(); ++i) {
      const int32_t value = inputs.values[i];
      const int8_t* const weights = inputs.weights[i];
      for (int64_t f = first; f < last; ++f) sums[f - first] += value * weights[f];
    }
  }
};

#ifdef HAS_VNNI

// Bytes, or pairs of them, of a and b in turns: of the lower or upper half of each 16 bytes.
#define IN_TURNS(name, instruction)                               \
  template <typename Vector>                                      \
  INLINED Vector name(const Vector& a, const Vector& b) {         \
    Vector both;                                                  \
    asm(instruction " %2, %1, %0" : "=v"(both) : "v"(a), "v"(b)); \
    return both;                                                  \
  }
IN_TURNS(low_bytes, "vpunpcklbw")
IN_TURNS(high_bytes, "vpunpckhbw")
IN_TURNS(low_pairs, "vpunpcklwd")
IN_TURNS(high_pairs, "vpunpckhwd")
#undef IN_TURNS

// Meanwhile the weights of the next inputs are fetched.
template <typename Vector>
INLINED void add_in_fours(const NonZeroInputs& inputs, int64_t first, int64_t last,
                          int32_t* sums) {
  const int64_t count = inputs.values.size(), unit = sizeof(Vector);
  for (int64_t i = 0; i < count; i += kInputsTogether) {
    const int8_t* const* const weights = &inputs.weights[i];
    const int8_t* const* const next = weights + (i + kInputsTogether < count) * kInputsTogether;
    Vector values[2];
    for (int k = 0; k < 2; ++k) {
      int32_t four;
      std::memcpy(&four, &inputs.values[i + 4 * k], 4);
      values[k] = four - Vector{};
    }
    for (int64_t f = first; f < last; f += unit) {
      int32_t* const to = sums + f - first;
      Vector all[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) std::memcpy(&all[j], to + j * unit / 4, sizeof(Vector));
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        Vector rows[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          std::memcpy(&rows[j], weights[4 * k + j] + f, sizeof(Vector));
          __builtin_prefetch(next[4 * k + j] + f, 0, 2);
        }
        const Vector low[] = {low_bytes(rows[0], rows[1]), low_bytes(rows[2], rows[3])};
        const Vector high[] = {high_bytes(rows[0], rows[1]), high_bytes(rows[2], rows[3])};
        add_products(&all[0], values[k], low_pairs(low[0], low[1]));
        add_products(&all[1], values[k], high_pairs(low[0], low[1]));
        add_products(&all[2], values[k], low_pairs(high[0], high[1]));
        add_products(&all[3], values[k], high_pairs(high[0], high[1]));
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) std::memcpy(to + j * unit / 4, &all[j], sizeof(Vector));
    }
  }
}

AVX512 void add_in_fours_512(const NonZeroInputs& inputs, int64_t first, int64_t last,
                             int32_t* sums) {
  add_in_fours<Ints16>(inputs, first, last, sums);
}
AVX2 void add_in_fours_256(const NonZeroInputs& inputs, int64_t first, int64_t last,
                           int32_t* sums) {
  add_in_fours<Ints8>(inputs, first, last, sums);
}

#endif

void add_int8_inputs(const NonZeroInputs& inputs, int64_t first, int64_t last, int32_t* sums) {
#ifdef HAS_VNNI
  if (kVnni512) return add_in_fours_512(inputs, first, last, sums);
  if (kVnni256) return add_in_fours_256(inputs, first, last, sums);
#endif
  dispatch<AddInt8Inputs>(inputs, first, last, sums);
}

// Where add_int8_inputs leaves the sum of a filter.
inline int64_t place_of_sum(int64_t filter) {
#ifdef HAS_VNNI
  const int64_t unit = kVnni512 ? sizeof(Ints16) : kVnni256 ? sizeof(Ints8) : 0;
  const int64_t i = unit ? filter % unit : 0;
  if (unit) return filter - i + i % 16 / 4 * (unit / 4) + i / 16 * 4 + i % 4;
#endif
  return filter;
}

}  // namespace
