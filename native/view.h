// A matrix in memory.
#pragma once

#include <cstdint>

namespace {

struct View {
  float* data;
  int64_t row_stride, column_stride;  // floats from a row to the next, from a column to the next
  float* at(int64_t row, int64_t column) const {
    return data + row * row_stride + column * column_stride;
  }
  View from(int64_t row, int64_t column) const {
    return {at(row, column), row_stride, column_stride};
  }
  View transposed() const { return {data, column_stride, row_stride}; }
};

}  // namespace
