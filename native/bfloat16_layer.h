// Fully connected layers of bfloat16, with float32 sums, and their gradients, by AMX (amx.h), of
// arrays without gaps: x (images, inputs), w (outputs, inputs), y (images, outputs).
//
// Weights are brought into tiles as they are used, once a product: reading them takes the time. No
// sum depends on how many threads there are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "amx.h"
#include "bfloat16.h"

namespace {

// Of the inputs' gradients: columns and rows of weights that are in tiles at a time.
const int64_t kColumnsTogether = 256, kStepsTogether = 32;
const int64_t kBlockStep = kBlock * kStep;  // values of a block in a step: two tiles

// `steps` of the blocks of a matrix with so many rows or columns.
Bfloat16* blocks_of(int64_t length, int64_t steps, std::vector<float>* buffer) {
  return aligned_values<Bfloat16>(buffer, in_blocks(length, kBlock) * steps * kBlockStep);
}

// A block of up to kBlock rows of a matrix: an upper tile a step, and the lower one.
template <typename Value>
struct TileRows {
  static INLINED Bfloat16 narrow(float value) { return bfloat16(value); }
  static INLINED Bfloat16 narrow(Bfloat16 value) { return value; }
  static INLINED void run(const Value* from, int64_t rows, int64_t depth, int64_t stride,
                          Bfloat16* to) {
    if (rows < kBlock || depth % kStep)
      std::fill_n(to, in_blocks(depth, kStep) * kBlockStep, Bfloat16());
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t first = 0; first < depth; first += kStep) {
        const Value* const values = from + row * stride + first;
        Bfloat16* const tile = to + first * kBlock + row * kStep;
        for (int64_t i = 0; i < std::min(kStep, depth - first); ++i) tile[i] = narrow(values[i]);
      }
  }
};

// The same of a matrix that is given with its rows as columns.
struct TileRowsOfTransposed {
  static INLINED void run(const float* from, int64_t depth, int64_t rows, int64_t stride,
                          Bfloat16* to) {
    std::fill_n(to, in_blocks(depth, kStep) * kBlockStep, Bfloat16());
    for (int64_t d = 0; d < depth; ++d)
      for (int64_t row = 0; row < rows; ++row)
        to[d / kStep * kBlockStep + row * kStep + d % kStep] = bfloat16(from[d * stride + row]);
  }
};

// A block of up to kBlock columns of a matrix: a left tile a step, and the right one, with the
// columns of two rows of the matrix in each row.
struct TileColumns {
  static INLINED void run(const float* from, int64_t depth, int64_t columns, int64_t row_stride,
                          int64_t stride, Bfloat16* to) {
    if (columns < kBlock || depth % kStep)
      std::fill_n(to, in_blocks(depth, kStep) * kBlockStep, Bfloat16());
    for (int64_t row = 0; row < depth; row += 2) {
      const float* const values = from + row * row_stride;
      Bfloat16* const pairs = to + row * kBlock;
      if (stride == 1 && row + 1 < depth) {
        PairRows::run(values, values + row_stride, columns, reinterpret_cast<Pair*>(pairs));
        continue;
      }
      for (int64_t i = 0; i < columns; ++i)
        for (int64_t r = row; r < std::min(depth, row + 2); ++r)
          pairs[2 * i + r - row] = bfloat16(from[r * row_stride + i * stride]);
    }
  }
};

// c = a b, of a block of a's rows and one of b's columns. Of a block of which half is enough for
// so many rows or columns, half is computed.
void multiply_blocks(const Bfloat16* a, const Bfloat16* b, int64_t steps, int64_t rows,
                     int64_t columns, float* c, int64_t c_row) {
  static thread_local std::vector<int64_t> at;
  for (int64_t step = at.size(); step < steps; ++step) at.push_back(step * 2 * kTileBytes);
  BlockProduct product = {};
  product.a = a;
  product.b = b;
  product.a_at = product.b_at = at.data();
  product.steps = steps;
  product.a_row = 2 * kStep;
  product.a_next = kTileBytes;
  product.b_row = 4 * kBlock;
  product.b_next = 4 * kTileRows;
  product.two_down = rows > kTileRows;
  product.two_across = columns > kTileRows;
  multiply_block(product, c, c_row);
}

// y = x w^T + bias. row: values from a row of w to the next.
template <typename Value>
void multiply_in_tiles(int64_t images, int64_t inputs, int64_t outputs, int64_t row,
                       const float* x, const Value* w, const float* bias, float* y) {
  static thread_local std::vector<float> buffers[2];
  const int64_t steps = in_blocks(inputs, kStep);
  Bfloat16* const of_x = blocks_of(images, steps, &buffers[0]);
  parallel_for(in_blocks(images, kBlock) * steps, [&](int64_t task) {
    const int64_t first = task / steps * kBlock, column = task % steps * kStep;
    dispatch<TileColumns>(x + first * inputs + column, std::min(kStep, inputs - column),
                          std::min(kBlock, images - first), int64_t(1), inputs,
                          of_x + task * kBlockStep);
  });
  parallel_for(in_blocks(outputs, kBlock), [&](int64_t block) {
    const int64_t first = block * kBlock, rows = std::min(kBlock, outputs - first);
    Bfloat16* const of_w = blocks_of(kBlock, steps, &buffers[1]);
    dispatch<TileRows<Value>>(w + first * row, rows, inputs, row, of_w);
    const AmxTiles tiles;
    float sums[kBlock * kBlock];
    for (int64_t i = 0; i < images; i += kBlock) {
      const int64_t many = std::min(kBlock, images - i);
      multiply_blocks(of_w, of_x + i * steps * kStep, steps, rows, many, sums, kBlock);
      for (int64_t j = 0; j < many; ++j)
        for (int64_t o = 0; o < rows; ++o)
          y[(i + j) * outputs + first + o] = sums[o * kBlock + j] + bias[first + o];
    }
  });
}

// dw = g^T x
void differentiate_weight_in_tiles(int64_t images, int64_t inputs, int64_t outputs,
                                   const float* g, const float* x, float* dw) {
  static thread_local std::vector<float> buffers[2];
  const int64_t steps = in_blocks(images, kStep);
  Bfloat16* const of_x = blocks_of(inputs, steps, &buffers[0]);
  parallel_for(in_blocks(inputs, kBlock), [&](int64_t i) {
    const int64_t first = i * kBlock, many = std::min(kBlock, inputs - first);
    dispatch<TileColumns>(x + first, images, many, inputs, int64_t(1),
                          of_x + first * steps * kStep);
  });
  parallel_for(in_blocks(outputs, kBlock), [&](int64_t block) {
    const int64_t first = block * kBlock, rows = std::min(kBlock, outputs - first);
    Bfloat16* const of_g = blocks_of(kBlock, steps, &buffers[1]);
    dispatch<TileRowsOfTransposed>(g + first, images, rows, outputs, of_g);
    const AmxTiles tiles;
    float sums[kBlock * kBlock];
    for (int64_t i = 0; i < inputs; i += kBlock) {
      const int64_t columns = std::min(kBlock, inputs - i);
      float* const to = dw + first * inputs + i;
      const bool whole = rows == kBlock && columns == kBlock;
      multiply_blocks(of_g, of_x + i * steps * kStep, steps, rows, columns, whole ? to : sums,
                      whole ? inputs : kBlock);
      for (int64_t o = 0; !whole && o < rows; ++o)
        std::copy_n(sums + o * kBlock, columns, to + o * inputs);
    }
  });
}

// dx = g w
void differentiate_input_in_tiles(int64_t images, int64_t inputs, int64_t outputs, const float* g,
                                  const float* w, float* dx) {
  static thread_local std::vector<float> buffers[2];
  const int64_t steps = in_blocks(outputs, kStep);
  Bfloat16* const of_g = blocks_of(images, steps, &buffers[0]);
  parallel_for(in_blocks(images, kBlock), [&](int64_t i) {
    const int64_t first = i * kBlock, many = std::min(kBlock, images - first);
    dispatch<TileRows<float>>(g + first * outputs, many, outputs, outputs,
                              of_g + first * steps * kStep);
  });
  parallel_for(in_blocks(inputs, kColumnsTogether), [&](int64_t task) {
    const int64_t left = task * kColumnsTogether, right = std::min(inputs, left + kColumnsTogether);
    const AmxTiles tiles;
    float sums[kBlock * kBlock];
    for (int64_t top = 0; top < steps; top += kStepsTogether) {
      const int64_t many = std::min(kStepsTogether, steps - top);
      const int64_t depth = std::min(outputs, (top + many) * kStep) - top * kStep;
      Bfloat16* const of_w = blocks_of(kColumnsTogether, many, &buffers[1]);
      for (int64_t i = left; i < right; i += kBlock)
        dispatch<TileColumns>(w + top * kStep * inputs + i, depth, std::min(kBlock, right - i),
                              inputs, int64_t(1), of_w + (i - left) * many * kStep);
      for (int64_t image = 0; image < images; image += kBlock)
        for (int64_t i = left; i < right; i += kBlock) {
          const int64_t rows = std::min(kBlock, images - image);
          const int64_t columns = std::min(kBlock, right - i);
          multiply_blocks(of_g + (image * steps + top * kBlock) * kStep,
                          of_w + (i - left) * many * kStep, many, rows, columns, sums, kBlock);
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < columns; ++j) {
              float* const to = dx + (image + r) * inputs + i + j;
              *to = sums[r * kBlock + j] + (top ? *to : 0);
            }
        }
    }
  });
}

}  // namespace
