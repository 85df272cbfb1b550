// What becomes of exact sums: values, a relu, LRN across filters, uint8.
//
// As MXNet's MKL-DNN operators have it, an integer q of an array of uint8 whose range ends at r
// means q r / 255.5.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common.h"
#include "int8_product.h"
#include "product.h"
#include "variants.h"

namespace {

const float kUint8Range = 255.5f;
const int64_t kRoom = 16;  // zeros before and behind a row, since vectors reach beyond its ends

// A value is scale * sum + bias, or 0 if that is negative and `relu`.
struct Int8Outputs {
  const float *scale, *bias;  // of each filter
  int64_t filters;
  bool relu, normal;
  float knorm, by;  // if `normal`: it is then divided by (knorm + by * squares of five filters)^.75
  float factor;     // as uint8 it is factor * value, at most 255
  // Values from a row to the next, a multiple of kRoom: with those that a last block has too many,
  // and the room on both sides.
  int64_t row() const { return (filters + kFilters + 3 * kRoom) / kRoom * kRoom; }
};

// Integers of a range with this end, for each 1.
float read_factor(const Attributes& attrs, const char* name, float integers) {
  if (!has(attrs, name)) throw Refused(std::string(name) + " is missing");
  const float range = static_cast<float>(read_number(attrs, name, 0));
  if (!(range > 0)) refuse_value(attrs, name);
  return integers / range;
}

// The ends of the range of an operator's uint8, which follow it among the outputs.
void write_range(const Int8Outputs& o, Tensors& out) {
  *floats(out[1], {1}, "min") = 0;
  *floats(out[2], {1}, "max") = kUint8Range / o.factor;
}

struct ValuesOfSums {
  static INLINED void run(const Int8Outputs& o, const int32_t* sums, float* values) {
    for (int64_t f = 0; f < o.filters; ++f) {
      const float value = o.scale[f] * static_cast<float>(sums[f]) + o.bias[f];
      values[f] = o.relu && value < 0 ? 0 : value;
    }
  }
};

// The room around a row of values.
inline void set_room(const Int8Outputs& o, float* values) {
  std::fill_n(values - kRoom, kRoom, 0.0f);
  std::fill_n(values + o.filters, kRoom + 2, 0.0f);
}

// Here fused multiply-add is used where the processor has it.
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

// s^-0.75.
template <typename Vector>
INLINED Vector power_of_vector(const Vector& s) {
  Vector y;
#ifdef HAS_VARIANTS
  // Two square roots and a division would take as long as all the rest. y is first right to some 12
  // bits, and e = 1 - s^3 y^4 then corrects it, to second order.
  if (sizeof(Vector) == 64) {
    Vector root, fourth;
    asm("vrsqrt14ps %1, %0" : "=v"(root) : "v"(s));
    asm("vrsqrt14ps %1, %0" : "=v"(fourth) : "v"(root));
    y = root * (root * fourth);
    const Vector b = s * y, e = 1 - b * y * b * b;
    return y + y * e * (0.25f + e * (5.0f / 32));
  }
#endif
  for (size_t lane = 0; lane < sizeof(Vector) / sizeof(float); ++lane) {
    const float root = std::sqrt(s[lane]);
    y[lane] = 1 / (root * std::sqrt(root));
  }
  return y;
}

// As many integers as a vector has floats.
template <typename Vector>
struct IntegersOf {
  typedef int32_t Ints __attribute__((vector_size(sizeof(Vector))));
  typedef uint8_t Bytes __attribute__((vector_size(sizeof(Vector) / 4)));
};

// A row of values that are not negative, with room around it, as uint8.
struct QuantizeRow {
  template <typename Vector>
  static INLINED void run(const Int8Outputs& o, const float* values, uint8_t* to) {
    const int64_t width = sizeof(Vector) / sizeof(float), filters = o.filters;
    const float factor = o.factor, knorm = o.knorm, by = o.by;  // else read again after each store
    const bool normal = o.normal;
    typedef typename IntegersOf<Vector>::Ints Ints;
    typedef typename IntegersOf<Vector>::Bytes Bytes;
    for (int64_t f = 0; f < filters; f += width) {
      Vector value = factor * load<Vector>(values + f);
      if (normal) {
        Vector squares = {};
        for (int64_t j = -2; j <= 2; ++j) {
          const Vector near = load<Vector>(values + f + j);
          squares += near * near;
        }
        value *= power_of_vector<Vector>(knorm + by * squares);
      }
      const Vector most = Vector{} + 255, limited = (value < most ? value : most) + 0.5f;
      const Ints nearest = __builtin_convertvector(limited, Ints);
      const Bytes bytes = __builtin_convertvector(nearest, Bytes);
      std::memcpy(to + f, &bytes, sizeof(Bytes));
    }
  }
};

#pragma GCC pop_options

}  // namespace
