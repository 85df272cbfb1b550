// Products of whole matrices, in blocks that stay in the cache and tiles that stay in registers.
//
// Weights are nearly all of the memory, and each of them is used only once an image. On the left
// those that come next are prefetched while a tile is computed, on the right while others are
// copied.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16.h"
#include "parallel.h"
#include "product.h"
#include "squares.h"

namespace {

enum Weights { kLeft, kRight, kNeither };

struct Product {  // c = a b
  View a, b, c;
  int64_t rows, columns, depth;  // of c; depth: the length of the sums
  bool add;                      // c += a b
  Weights weights;               // which factor the weights are, if one
  // The block of b that is to stay in the cache, without gaps.
  int64_t block_depth, block_columns;
  // Where a has narrow weights, so many in a float: makes floats of `count` of a row from `column`
  // on.
  int of_word = 1;
  void (*widen)(const View& a, int64_t row, int64_t column, int64_t count, float* to);
  bool round = false;  // a and b to bfloat16
};

struct Block {
  int64_t left, right, top, depth;  // columns and rows of b
  int64_t columns;                  // of its panels
  const float* panels;
};

// Of bfloat16, if they are to be rounded.
void copy_values(const float* from, int64_t count, bool round, float* to) {
  if (round) return dispatch<RoundRow>(from, count, to);
  const int64_t part = 8;  // a small constant, or each copy would be a call
  int64_t i = 0;
  for (; i + part <= count; i += part) std::memcpy(to + i, from + i, part * sizeof(float));
  for (; i < count; ++i) to[i] = from[i];
}

// Copies `width` columns of b, each without gaps, to a panel whose rows are `columns` apart.
void pack_transposed(const View& b, int64_t depth, int64_t width, int64_t columns, float* panel) {
  for_each_square(
      width, depth,
      [&](int64_t i, int64_t p) INLINED_LAMBDA {
        Floats4 square[4];
        for (int k = 0; k < 4; ++k) {
          square[k] = load<Floats4>(b.at(p, i + k));
          __builtin_prefetch(b.at(p, i + 4 + k), 0, 2);
        }
        transpose(square);
        for (int k = 0; k < 4; ++k) store(square[k], panel + (p + k) * columns + i);
      },
      [&](int64_t i, int64_t p) INLINED_LAMBDA { panel[p * columns + i] = *b.at(p, i); });
}

const int64_t kStreams = 8;  // of memory that are read at a time, which is faster than one

// The block of b in panels without gaps, the last one with zeros at the end. Rows of b, or its
// columns, are without gaps: they are read in long stretches, and the next are fetched meanwhile,
// into the second-level cache, since rows of weights displace each other in the first.
void pack_block(const Product& product, const Block& block, float* panels) {
  const View& b = product.b;
  const int64_t columns = block.columns;
  for (int64_t j = block.left; j < block.right; j += columns)
    if (block.right - j < columns)
      std::fill_n(panels + (j - block.left) * block.depth, columns * block.depth, 0.0f);
  if (b.column_stride == 1) {
    for (int64_t top = 0; top < block.depth; top += kStreams)
      for (int64_t j = block.left; j < block.right; j += columns)
        for (int64_t p = top; p < std::min(top + kStreams, block.depth); ++p) {
          const float* const from = b.at(block.top + p, j);
          for (int64_t at = 0; at < columns; at += kLine)
            __builtin_prefetch(from + kStreams * b.row_stride + at, 0, 2);
          copy_values(from, std::min(columns, block.right - j), product.round,
                      panels + (j - block.left) * block.depth + p * columns);
        }
  } else {
    for (int64_t j = block.left; j < block.right; j += columns) {
      float* const to = panels + (j - block.left) * block.depth;
      pack_transposed(b.from(block.top, j), block.depth, std::min(columns, block.right - j),
                      columns, to);
      if (product.round) dispatch<RoundRow>(to, block.depth * columns, to);
    }
  }
}

// Whether so many rows, from each of which a product takes the same column, are in the first cache
// together: those that begin whole pages of 4 KB apart share one set of it.
bool fit_together(int64_t row_stride, int64_t rows) {
  int64_t ways = 8;
#ifdef _SC_LEVEL1_DCACHE_ASSOC
  static const int64_t found = sysconf(_SC_LEVEL1_DCACHE_ASSOC);
  ways = std::max(ways, found);
#endif
  return row_stride * sizeof(float) % 4096 > 0 || rows <= ways;
}

// The part of a that a strip of tiles needs: where it is, or else copied, which takes longer.
View strip_of(const Kernel& kernel, const Product& product, const Block& block, int64_t row,
              int64_t height, std::vector<float>* buffer) {
  const View& a = product.a;
  const int64_t top = block.top, depth = block.depth;
  const bool floats = product.of_word == 1 && !product.round;
  // Tiles are computed in thirds.
  if (floats && a.column_stride == 1 && height % (kernel.rows / 3) == 0 &&
      fit_together(a.row_stride, height))
    return a.from(row, top);
  const int64_t stride = depth + kLine;  // or rows would share places in the cache
  const View to = {aligned(buffer, kernel.rows * stride), stride, 1};
  if (product.of_word > 1) {
    for (int64_t r = 0; r < height; ++r) product.widen(a, row + r, top, depth, to.at(r, 0));
  } else if (a.column_stride == 1) {
    for (int64_t r = 0; r < height; ++r)
      copy_values(a.at(row + r, top), depth, product.round, to.at(r, 0));
  } else {
    for (int64_t p = 0; p < depth; ++p)
      for (int64_t r = 0; r < height; ++r) {
        const float value = *a.at(row + r, top + p);
        *to.at(r, p) = product.round ? rounded(value) : value;
      }
  }
  return to;
}

// Copies, or adds, a tile at the edge of c from the buffer in which it was computed whole.
void copy_edge(const View& edge, const View& c, int64_t height, int64_t width, bool add) {
  for (int64_t i = 0; i < width; ++i)
    for (int64_t r = 0; r < height; ++r)
      *c.at(r, i) = *edge.at(r, i) + (add ? *c.at(r, i) : 0);
}

// What the block contributes to up to kernel.rows rows of c, from `row` on.
void multiply_strip(const Kernel& kernel, const Product& product, const Block& block,
                    int64_t row) {
  static thread_local std::vector<float> buffers[2];
  const View& c = product.c;
  const int64_t third = kernel.rows / 3, columns = block.columns;
  const int64_t height = std::min(kernel.rows, product.rows - row);
  const bool add = product.add || block.top > 0;
  const int vectors = static_cast<int>(columns / kernel.width);
  const View strip = strip_of(kernel, product, block, row, height, &buffers[0]);
  const View edge = {aligned(&buffers[1], kernel.rows * columns), columns, 1};
  Tile tile = {};
  tile.a = strip.data;
  tile.a_row_stride = strip.row_stride;
  tile.a_column_stride = 1;
  tile.b_row_stride = columns;
  tile.depth = block.depth;
  if (product.weights == kLeft) {
    tile.fetch = kNextStrip;
    tile.next = product.a.at(std::min(row + kernel.rows, product.rows - 1),
                             block.top / product.of_word);
    tile.next_row_stride = product.a.row_stride;
    tile.next_of_float = product.of_word;
  }
  for (int64_t j = block.left; j < block.right; j += columns) {
    const int64_t width = std::min(columns, block.right - j);
    const bool whole = c.column_stride == 1 && width == columns && height % third == 0;
    tile.b = block.panels + (j - block.left) * block.depth;
    tile.c = whole ? c.at(row, j) : edge.data;
    tile.c_row_stride = whole ? c.row_stride : columns;
    tile.add = whole && add;
    kernel.multiply_tile(tile, in_blocks(height, third), vectors);
    if (!whole) copy_edge(edge, c.from(row, j), height, width, add);
  }
}

void multiply_on_this_thread(const Kernel& kernel, const Product& product) {
  static thread_local std::vector<float> buffer;
  Block block;
  block.columns = product.columns > kernel.width ? 2 * kernel.width : kernel.width;
  float* const panels =
      aligned(&buffer, product.block_depth * (product.block_columns + block.columns));
  block.panels = panels;
  for (block.left = 0; block.left < product.columns; block.left += product.block_columns) {
    block.right = std::min(product.columns, block.left + product.block_columns);
    for (block.top = 0; block.top < product.depth; block.top += product.block_depth) {
      block.depth = std::min(product.block_depth, product.depth - block.top);
      pack_block(product, block, panels);
      for (int64_t i = 0; i < product.rows; i += kernel.rows)
        multiply_strip(kernel, product, block, i);
    }
  }
}

// Each thread calls work(part, row) for its part of c: some rows, the first of which is `row` of c,
// or some columns where the weights are b. `unit`: so many stay together.
template <typename Work>
void split_product(const Product& product, int64_t unit, const Work& work) {
  const bool by_columns = product.weights == kRight;
  const int64_t length = by_columns ? product.columns : product.rows;
  split(in_blocks(length, unit), [&](int64_t first, int64_t last) {
    const int64_t start = first * unit, end = std::min(length, last * unit);
    if (start >= end) return;
    Product part = product;
    if (by_columns) {
      part.columns = end - start;
      part.b = product.b.from(0, start);
      part.c = product.c.from(0, start);
    } else {
      part.rows = end - start;
      part.a = product.a.from(start, 0);
      part.c = product.c.from(start, 0);
    }
    work(part, by_columns ? 0 : start);
  });
}

void multiply_matrices(const Product& product) {
  const Kernel& kernel = best_kernel();
  const int64_t unit = product.weights == kRight ? 2 * kernel.width : kernel.rows;
  split_product(product, unit, [&](const Product& part, int64_t) {
    multiply_on_this_thread(kernel, part);
  });
}

}  // namespace
