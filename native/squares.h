// Transposes in registers: squares of four by four.
#pragma once

#include <algorithm>
#include <cstdint>

#include "product.h"

namespace {

typedef int32_t Places __attribute__((vector_size(16)));

INLINED void transpose(Floats4* square) {
  const Places low = {0, 4, 1, 5}, high = {2, 6, 3, 7}, first = {0, 1, 4, 5}, last = {2, 3, 6, 7};
  const Floats4 a = __builtin_shuffle(square[0], square[1], low);
  const Floats4 b = __builtin_shuffle(square[2], square[3], low);
  const Floats4 c = __builtin_shuffle(square[0], square[1], high);
  const Floats4 d = __builtin_shuffle(square[2], square[3], high);
  square[0] = __builtin_shuffle(a, b, first);
  square[1] = __builtin_shuffle(a, b, last);
  square[2] = __builtin_shuffle(c, d, first);
  square[3] = __builtin_shuffle(c, d, last);
}

// Calls of_square(row, column) for squares that cover so many rows and columns, some of them twice,
// and of_one(row, column) where there are fewer than four.
template <typename OfSquare, typename OfOne>
INLINED void for_each_square(int64_t rows, int64_t columns, OfSquare of_square, OfOne of_one) {
  int64_t row = 0;
  for (; columns >= 4 && row + 4 <= rows; row += 4)
    for (int64_t column = 0; column < columns; column += 4)
      of_square(row, std::min(column, columns - 4));
  for (; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) of_one(row, column);
}

}  // namespace
