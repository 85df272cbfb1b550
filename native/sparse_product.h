// Products whose left factor has many zeros, as relu and dropout leave them: nothing is multiplied
// with a zero. A row of c is the sum of some rows of b, a part of which stays in registers.
//
// So a value that is not finite counts for nothing where it would meet a zero. How many zeros the
// whole left factor has decides the order of the sums, and so the last bits of each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "matrix_product.h"

namespace {

// With more values that are not zero, or with fewer rows or sums of fewer, tiles are faster.
const double kMostShare = 0.4;
const int64_t kFewest = 16;

const int kSumVectors = 8;          // of a row of c, in registers
const int64_t kPanelValues = 6144;  // of b, in the first cache
const int64_t kRowsOfPanel = 64;    // of c, that meet a panel of b before the next one is read
const int64_t kPastCaches = 1 << 20;  // with so many values of c, a thread's go past the caches

// What is not zero of each part of each row of a matrix, in order.
struct SparseMatrix {
  int64_t rows, depth, part;  // part: of the depth, so many
  std::vector<float> values;
  std::vector<int32_t> places;  // within the part
  std::vector<int32_t> counts;
  int64_t parts() const { return in_blocks(depth, part); }
  int64_t list(int64_t row, int64_t p) const { return p * rows + row; }
};

// Buffers of `to` are never shrunk.
void compress(const Product& product, int64_t part, SparseMatrix* to) {
  to->rows = product.rows;
  to->depth = product.depth;
  to->part = part;
  const size_t lists = to->rows * to->parts(), room = lists * part;
  if (to->values.size() < room) to->values.resize(room);
  if (to->places.size() < room) to->places.resize(room);
  to->counts.resize(lists);
  split(to->rows, [&](int64_t first, int64_t last) {
    for (int64_t p = 0; p < to->parts(); ++p)
      for (int64_t row = first; row < last; ++row) {
        const int64_t list = to->list(row, p), top = p * part;
        float* const values = &to->values[list * part];
        int32_t* const places = &to->places[list * part];
        int32_t count = 0;
        for (int64_t i = 0; i < std::min(part, to->depth - top); ++i) {
          const float value = *product.a.at(row, top + i);
          values[count] = product.round ? rounded(value) : value;
          places[count] = static_cast<int32_t>(i);
          count += values[count] != 0;
        }
        to->counts[list] = count;
      }
  });
}

// Rows of c, as many of its columns as a panel has, and what a part of a's rows adds to them.
struct SparseStrip {
  const SparseMatrix* a;
  int64_t row, rows, part;
  const float* panel;  // the part's rows of b
  View c;
  bool add;  // to c
  bool past_caches;
};

#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

struct MultiplySparse {
  template <typename Vector>
  static INLINED void run(const SparseStrip& strip) {
    const int64_t width = sizeof(Vector) / sizeof(float), columns = kSumVectors * width;
    for (int64_t r = 0; r < strip.rows; ++r) {
      const int64_t list = strip.a->list(strip.row + r, strip.part);
      const float* const values = &strip.a->values[list * strip.a->part];
      const int32_t* const places = &strip.a->places[list * strip.a->part];
      const int64_t count = strip.a->counts[list];
      float* const c = strip.c.at(r, 0);
      Vector sums[kSumVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kSumVectors; ++v) {
        sums[v] = strip.add ? load<Vector>(c + v * width) : Vector{};
        if (!strip.past_caches) __builtin_prefetch(c + strip.c.row_stride + v * width, 1);
      }
      for (int64_t i = 0; i < count; ++i) {
        const float* const b = strip.panel + places[i] * columns;
        const float value = values[i];
#pragma GCC unroll 8
        for (int v = 0; v < kSumVectors; ++v) sums[v] += value * load<Vector>(b + v * width);
      }
#pragma GCC unroll 8
      for (int v = 0; v < kSumVectors; ++v)
        strip.past_caches ? store_past_caches(sums[v], c + v * width)
                          : store(sums[v], c + v * width);
    }
  }
};

#pragma GCC pop_options

// Whether c is a gradient of weights that no cache holds until the update reads it, and whose rows
// begin with cache lines.
bool goes_past_caches(const Product& product) {
  const View& c = product.c;
  const uintptr_t at = reinterpret_cast<uintptr_t>(c.data);
  return product.weights == kNeither && !product.add && at % 64 == 0 && c.row_stride % kLine == 0 &&
         product.rows * product.columns >= kPastCaches;
}

// What the block of b contributes to up to kRowsOfPanel rows of c, from `row` on, which is the row
// a_row + `row` of a.
void multiply_sparse_rows(const Product& product, const Block& block, const SparseMatrix& a,
                          int64_t a_row, int64_t row) {
  static thread_local std::vector<float> buffer;
  const int64_t rows = std::min(kRowsOfPanel, product.rows - row), columns = block.columns;
  const View edge = {aligned(&buffer, kRowsOfPanel * columns), columns, 1};
  for (int64_t j = block.left; j < block.right; j += columns) {
    const int64_t width = std::min(columns, block.right - j);
    const View c = product.c.from(row, j);
    SparseStrip strip = {&a, a_row + row, rows};
    strip.c = width < columns ? edge : c;
    for (int64_t top = 0; top < block.depth; top += a.part) {
      strip.part = (block.top + top) / a.part;
      strip.panel = block.panels + (j - block.left) * block.depth + top * columns;
      strip.add = top > 0 || (width == columns && (product.add || block.top > 0));
      strip.past_caches = !strip.add && a.parts() == 1 && width == columns &&
                          goes_past_caches(product);
      with_vector<MultiplySparse>(strip);
    }
    if (width < columns) copy_edge(edge, c, rows, width, product.add || block.top > 0);
  }
}

void multiply_sparse_on_this_thread(const Product& product, const SparseMatrix& a, int64_t a_row) {
  static thread_local std::vector<float> buffer;
  const int64_t columns = kSumVectors * best_kernel().width;
  const int64_t block_columns = in_blocks(product.block_columns, columns) * columns;
  const int64_t block_depth = in_blocks(product.block_depth, a.part) * a.part;
  float* const panels = aligned(&buffer, block_depth * block_columns);
  Block block;
  block.panels = panels;
  block.columns = columns;
  for (block.left = 0; block.left < product.columns; block.left += block_columns) {
    block.right = std::min(product.columns, block.left + block_columns);
    for (block.top = 0; block.top < product.depth; block.top += block_depth) {
      block.depth = std::min(block_depth, product.depth - block.top);
      pack_block(product, block, panels);
      for (int64_t row = 0; row < product.rows; row += kRowsOfPanel)
        multiply_sparse_rows(product, block, a, a_row, row);
    }
  }
  finish_stores();
}

// Computes c = a b and returns true, or returns false if tiles are the faster way. Rows of c are
// without gaps, and a has floats.
bool multiply_sparse(const Product& product) {
  static thread_local SparseMatrix buffer;
  const int64_t columns = kSumVectors * best_kernel().width;
  const bool small = std::min(product.rows, product.depth) < kFewest;
  if (small || product.columns < columns) return false;
  const SparseMatrix& a = buffer;  // this thread's, in the others, too
  compress(product, kPanelValues / columns, &buffer);
  const int64_t count = std::accumulate(a.counts.begin(), a.counts.end(), int64_t{0});
  if (count > kMostShare * product.rows * product.depth) return false;
  split_product(product, product.weights == kRight ? columns : 1,
                [&](const Product& part, int64_t row) {
                  multiply_sparse_on_this_thread(part, a, row);
                });
  return true;
}

}  // namespace
