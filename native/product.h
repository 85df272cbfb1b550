// Tiles of matrix products, a few rows by one or two vectors, which stay in registers while they
// are summed up; one variant for each kind of processor.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "variants.h"

namespace {

const int64_t kLine = 64 / sizeof(float);  // floats in a cache line

// Blocks that hold so many; the last may be partly filled.
inline int64_t in_blocks(int64_t count, int64_t block) { return (count + block - 1) / block; }

// `size` floats that begin with a cache line. The buffer is never shrunk: growing it again would
// first fill it with zeros.
float* aligned(std::vector<float>* buffer, int64_t size) {
  if (buffer->size() < static_cast<size_t>(size + kLine)) buffer->resize(size + kLine);
  const uintptr_t start = reinterpret_cast<uintptr_t>(buffer->data()), line = 64;
  return reinterpret_cast<float*>((start + line - 1) / line * line);
}

// A vector at any place. By memcpy GCC 9 would copy it in pieces of 16 bytes.
template <typename Vector>
struct __attribute__((packed, may_alias)) Unaligned {
  Vector vector;
};

template <typename Vector>
INLINED Vector load(const float* from) {
  return reinterpret_cast<const Unaligned<Vector>*>(from)->vector;
}

template <typename Vector>
INLINED void store(const Vector& vector, float* to) {
  reinterpret_cast<Unaligned<Vector>*>(to)->vector = vector;
}

// Past the caches, for what is not read soon: a plain store of a cache line reads it first. `to` is
// a multiple of the vector's size.
template <typename Vector>
INLINED void store_past_caches(const Vector& vector, float* to) {
#ifdef HAS_VARIANTS
  Vector& place = *reinterpret_cast<Vector*>(to);
  if (sizeof(Vector) == 16)
    asm("movntps %1, %0" : "=m"(place) : "x"(vector));
  else
    asm("vmovntps %1, %0" : "=m"(place) : "v"(vector));
#else
  store(vector, to);
#endif
}

// Before another thread reads what was stored past the caches.
inline void finish_stores() {
#ifdef HAS_VARIANTS
  __builtin_ia32_sfence();
#endif
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

enum Fetch { kNothing, kNextStrip, kNextRows };

struct Tile {  // c = a b
  const float *a, *b;
  float* c;
  int64_t a_row_stride, a_column_stride, b_row_stride, c_row_stride, depth;
  bool add;  // c += a b
  Fetch fetch;
  // What to prefetch. kNextRows: as many rows as b has, as wide as b's. kNextStrip, where b has no
  // gaps: as many rows as a has, of `depth` values each, of which a float holds next_of_float: 1, 2
  // or 4.
  const float* next;
  int64_t next_row_stride;
  int next_of_float;
};

// Here fused multiply-add is used where the processor has it, so the last bits differ between
// variants.
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

// Where another thread shares the core, each gets half of its instructions, and then every one that
// is no multiplication costs time. So two steps of the sums are unrolled, the stride of b is a
// constant where there are no gaps, and nothing is prefetched that is in the cache.
template <typename Vector, int rows, int vectors, bool gapless, Fetch fetch>
INLINED void multiply_rows(const Tile& tile) {
  const int64_t width = sizeof(Vector) / sizeof(float), a_row_stride = tile.a_row_stride;
  const int64_t b_row_stride = gapless ? vectors * width : tile.b_row_stride;
  const int64_t c_row_stride = tile.c_row_stride, depth = tile.depth;
  const float *a = tile.a, *b = tile.b, *next = tile.next;
  float* const c = tile.c;
  Vector sums[rows][vectors];
  // The compiler would keep the sums in memory if it did not unroll these loops at once.
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      __builtin_prefetch(c + r * c_row_stride + v * width, 1);
      sums[r][v] = Vector{};
    }
  }
  const int64_t next_row_stride = tile.next_row_stride;
  const int64_t stretch = fetch == kNextStrip ? kLine : depth;
  for (int64_t p = 0; p < depth; p += stretch) {
    if (fetch == kNextStrip) {
#pragma GCC unroll 12
      for (int r = 0; r < rows; ++r)
        __builtin_prefetch(next + r * next_row_stride + p / tile.next_of_float, 0, 2);
    }
    const int64_t steps = std::min(stretch, depth - p);
#pragma GCC unroll 2
    for (int64_t step = 0; step < steps; ++step) {
      if (fetch == kNextRows) {
        for (int64_t at = 0; at < vectors * width; at += kLine)
          __builtin_prefetch(next + at, 0, 2);
        next += next_row_stride;
      }
      Vector row[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) row[v] = load<Vector>(b + v * width);
#pragma GCC unroll 12
      for (int r = 0; r < rows; ++r) {
        const float value = a[r * a_row_stride];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sums[r][v] += value * row[v];
      }
      a += tile.a_column_stride;
      b += b_row_stride;
    }
  }
  if (tile.add) {
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v)
        sums[r][v] += load<Vector>(c + r * c_row_stride + v * width);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) store(sums[r][v], c + r * c_row_stride + v * width);
  }
}

template <typename Vector, int rows, int vectors>
INLINED void multiply_rows(const Tile& tile) {
  const int64_t width = sizeof(Vector) / sizeof(float);
  if (tile.b_row_stride != vectors * width) {
    if (tile.fetch == kNextRows)
      return multiply_rows<Vector, rows, vectors, false, kNextRows>(tile);
    return multiply_rows<Vector, rows, vectors, false, kNothing>(tile);
  }
  if (tile.fetch == kNextStrip)
    return multiply_rows<Vector, rows, vectors, true, kNextStrip>(tile);
  if (tile.fetch == kNextRows) return multiply_rows<Vector, rows, vectors, true, kNextRows>(tile);
  multiply_rows<Vector, rows, vectors, true, kNothing>(tile);
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
