// Tiles of matrix products, a few rows by one or two vectors, which stay in registers while they
// are summed up; one variant for each kind of processor.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "variants.h"

namespace {

const int64_t kLine = 64 / sizeof(float);  // floats in a cache line
const int64_t kAhead = 64;                 // rows of b that are prefetched before they are used

// `size` floats that begin with a cache line.
float* aligned(std::vector<float>* buffer, int64_t size) {
  buffer->resize(size + kLine);
  const uintptr_t start = reinterpret_cast<uintptr_t>(buffer->data()), line = 64;
  return reinterpret_cast<float*>((start + line - 1) / line * line);
}

template <typename Vector>
INLINED Vector load(const float* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(Vector));
  return vector;
}

template <typename Vector>
INLINED void store(const Vector& vector, float* to) {
  std::memcpy(to, &vector, sizeof(Vector));
}

// A matrix in memory.
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

struct Tile {  // c = a b
  const float *a, *b;
  float* c;
  int64_t a_row_stride, a_column_stride, b_row_stride, c_row_stride, depth;
  bool add;           // c += a b
  const float* next;  // as many rows as a has, `depth` long, to be prefetched
  int64_t next_row_stride;
  int next_of_float;  // values in a float there: 1, 2 or 4
};

// Here fused multiply-add is used where the processor has it, so the last bits differ between
// variants.
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

template <typename Vector, int rows, int vectors>
INLINED void multiply_rows(const Tile& tile) {
  const int64_t width = sizeof(Vector) / sizeof(float), a_row_stride = tile.a_row_stride;
  const int next_shift = tile.next_of_float / 2;
  const float *a = tile.a, *b = tile.b;
  Vector sums[rows][vectors];
  // The compiler would keep the sums in memory if it did not unroll these loops at once.
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      __builtin_prefetch(tile.c + r * tile.c_row_stride + v * width, 1);
      sums[r][v] = Vector{};
    }
  }
  for (int64_t p = 0; p < tile.depth; ++p, a += tile.a_column_stride, b += tile.b_row_stride) {
    if (p % kLine == 0) {
#pragma GCC unroll 12
      for (int r = 0; r < rows; ++r)
        __builtin_prefetch(tile.next + r * tile.next_row_stride + (p >> next_shift), 0, 2);
    }
    for (int64_t at = 0; at < vectors * width; at += kLine)
      __builtin_prefetch(b + kAhead * tile.b_row_stride + at);
    Vector row[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) row[v] = load<Vector>(b + v * width);
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      const float value = a[r * a_row_stride];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sums[r][v] += value * row[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      float* const c = tile.c + r * tile.c_row_stride + v * width;
      if (tile.add) sums[r][v] += load<Vector>(c);
      store(sums[r][v], c);
    }
  }
}

template <typename Vector, int third>
INLINED void multiply_thirds(const Tile& tile, int64_t thirds, int vectors) {
  if (thirds == 3 && vectors == 2) return multiply_rows<Vector, 3 * third, 2>(tile);
  if (thirds == 2 && vectors == 2) return multiply_rows<Vector, 2 * third, 2>(tile);
  if (thirds == 1 && vectors == 2) return multiply_rows<Vector, third, 2>(tile);
  if (thirds == 3) return multiply_rows<Vector, 3 * third, 1>(tile);
  if (thirds == 2) return multiply_rows<Vector, 2 * third, 1>(tile);
  return multiply_rows<Vector, third, 1>(tile);
}

typedef float Floats4 __attribute__((vector_size(16)));
void multiply_tile_baseline(const Tile& tile, int64_t thirds, int vectors) {
  multiply_thirds<Floats4, 2>(tile, thirds, vectors);
}

typedef float Floats8 __attribute__((vector_size(32)));
AVX2 void multiply_tile_avx2(const Tile& tile, int64_t thirds, int vectors) {
  multiply_thirds<Floats8, 2>(tile, thirds, vectors);
}

typedef float Floats16 __attribute__((vector_size(64)));  // there are twice as many registers
AVX512 void multiply_tile_avx512(const Tile& tile, int64_t thirds, int vectors) {
  multiply_thirds<Floats16, 4>(tile, thirds, vectors);
}

template <typename Body, typename... Arguments>
void with_vector_baseline(const Arguments&... arguments) {
  Body::template run<Floats4>(arguments...);
}

template <typename Body, typename... Arguments>
AVX2 void with_vector_avx2(const Arguments&... arguments) {
  Body::template run<Floats8>(arguments...);
}

template <typename Body, typename... Arguments>
AVX512 void with_vector_avx512(const Arguments&... arguments) {
  Body::template run<Floats16>(arguments...);
}

#pragma GCC pop_options

// Computes tiles of 1 to 3 thirds of its rows and 1 or 2 vectors.
struct Kernel {
  int64_t rows, width;
  void (*multiply_tile)(const Tile& tile, int64_t thirds, int vectors);
};

const Kernel& best_kernel() {
  static const Kernel kernels[] = {
      {6, 4, multiply_tile_baseline}, {6, 8, multiply_tile_avx2}, {12, 16, multiply_tile_avx512}};
  return kernels[kVariant];
}

// Calls Body::run<Vector>, which has to be INLINED, with the vectors of the variant in use, which
// are as wide as its kernel's.
template <typename Body, typename... Arguments>
void with_vector(const Arguments&... arguments) {
  static void (*const variants[])(const Arguments&...) = {
      with_vector_baseline<Body, Arguments...>, with_vector_avx2<Body, Arguments...>,
      with_vector_avx512<Body, Arguments...>};
  variants[kVariant](arguments...);
}

}  // namespace
