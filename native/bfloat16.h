// bfloat16, the upper half of a float32: rounding to it, to nearest, ties to even, and the order in
// which AMX's tiles take it.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "product.h"

namespace {

// They are read and written alone, in pairs, and by tiles.
typedef uint16_t Bfloat16 __attribute__((may_alias));
typedef uint32_t Pair __attribute__((may_alias));

// The float32 whose bits are rounded; NaN stays NaN.
INLINED uint32_t rounded_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  return ((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : rounded) & 0xffff0000;
}

INLINED Bfloat16 bfloat16(float value) { return static_cast<Bfloat16>(rounded_bits(value) >> 16); }

INLINED float rounded(float value) {
  const uint32_t bits = rounded_bits(value);
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// A row, as float32 still.
struct RoundRow {
  static INLINED void run(const float* from, int64_t count, float* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = rounded(from[i]);
  }
};

// A row, as bfloat16.
struct NarrowRow {
  static INLINED void run(const float* from, int64_t count, Bfloat16* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = bfloat16(from[i]);
  }
};

// Two rows, as pairs.
struct PairRows {
  static INLINED void run(const float* first, const float* second, int64_t count, Pair* to) {
    for (int64_t i = 0; i < count; ++i)
      to[i] = rounded_bits(first[i]) >> 16 | rounded_bits(second[i]);
  }
};

// `count` of Bfloat16 or Pair, which begin with a cache line.
template <typename Value>
Value* aligned_values(std::vector<float>* buffer, int64_t count) {
  return reinterpret_cast<Value*>(
      aligned(buffer, in_blocks(count * sizeof(Value), sizeof(float))));
}

// A whole array, as float32 still.
const float* round_all(const float* from, int64_t count, std::vector<float>* buffer) {
  float* const to = aligned(buffer, count);
  split(count, [&](int64_t first, int64_t last) {
    dispatch<RoundRow>(from + first, last - first, to + first);
  });
  return to;
}

}  // namespace
