// Tiles of matrix products, a few rows by one or two vectors, that stay in registers while they
// are summed up; one variant for each kind of processor.
#ifndef NATIVE_PRODUCT_H_
#define NATIVE_PRODUCT_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "common.h"

namespace {

const int64_t kLine = 64 / sizeof(float);  // floats in a line of the cache

// `size` floats that begin with a line of the cache.
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

struct Tile {  // c = a b
  const float *a, *b;
  float* c;
  // _down: from a row to the next, _right: from a column to the next
  int64_t a_down, a_right, b_down, c_down, depth;
  bool add;           // c += a b
  const float* next;  // as many rows as a's, depth long, to be fetched
  int64_t next_down;
};

// With fused multiply-add, where the processor has it: the last bits differ between processors.
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

template <typename Vector, int rows, int vectors>
INLINED void compute(const Tile& tile) {
  const int64_t width = sizeof(Vector) / sizeof(float), a_down = tile.a_down;
  const float *a = tile.a, *b = tile.b;
  Vector sums[rows][vectors];
  // Loops that are not unrolled at once would keep the sums in memory.
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      __builtin_prefetch(tile.c + r * tile.c_down + v * width, 1);
      sums[r][v] = Vector{};
    }
  }
  for (int64_t p = 0; p < tile.depth; ++p, a += tile.a_right, b += tile.b_down) {
    if (p % kLine == 0) {
#pragma GCC unroll 12
      for (int r = 0; r < rows; ++r) __builtin_prefetch(tile.next + r * tile.next_down + p, 0, 2);
    }
    Vector row[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) row[v] = load<Vector>(b + v * width);
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      const float value = a[r * a_down];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v) sums[r][v] += value * row[v];
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
      float* const c = tile.c + r * tile.c_down + v * width;
      if (tile.add) sums[r][v] += load<Vector>(c);
      store(sums[r][v], c);
    }
  }
}

template <typename Vector, int third>
INLINED void compute(const Tile& tile, int64_t thirds, int vectors) {
  if (thirds == 3 && vectors == 2) return compute<Vector, 3 * third, 2>(tile);
  if (thirds == 2 && vectors == 2) return compute<Vector, 2 * third, 2>(tile);
  if (thirds == 1 && vectors == 2) return compute<Vector, third, 2>(tile);
  if (thirds == 3) return compute<Vector, 3 * third, 1>(tile);
  if (thirds == 2) return compute<Vector, 2 * third, 1>(tile);
  return compute<Vector, third, 1>(tile);
}

typedef float Floats4 __attribute__((vector_size(16)));
void compute_anywhere(const Tile& tile, int64_t thirds, int vectors) {
  compute<Floats4, 2>(tile, thirds, vectors);
}

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512vl,fma")))

typedef float Floats8 __attribute__((vector_size(32)));
AVX2 void compute_avx2(const Tile& tile, int64_t thirds, int vectors) {
  compute<Floats8, 2>(tile, thirds, vectors);
}

typedef float Floats16 __attribute__((vector_size(64)));  // there are twice as many registers
AVX512 void compute_avx512(const Tile& tile, int64_t thirds, int vectors) {
  compute<Floats16, 4>(tile, thirds, vectors);
}
#endif

#pragma GCC pop_options

enum Processor { kAny, kAvx2, kAvx512 };

// What there is to use: as in MXNet's own convolutions, DNNL_MAX_CPU_ISA can hold it back.
Processor processor() {
  static const Processor found = [] {
#if defined(__x86_64__)
    const char* most = std::getenv("DNNL_MAX_CPU_ISA");
    const std::string isa = most ? most : "ALL";
    if (isa == "SSE41" || isa == "AVX") return kAny;
    if (isa.compare(0, 4, "AVX2") != 0 && __builtin_cpu_supports("avx512vl")) return kAvx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2;
#endif
    return kAny;
  }();
  return found;
}

// Computes tiles of 1 to 3 thirds of its rows and 1 or 2 vectors.
struct Kernel {
  int64_t rows, width;
  void (*compute)(const Tile& tile, int64_t thirds, int vectors);
};

const Kernel& best_kernel() {
  static const Kernel kernels[] = {
      {6, 4, compute_anywhere},
#if defined(__x86_64__)
      {6, 8, compute_avx2},
      {12, 16, compute_avx512},
#endif
  };
  return kernels[processor()];
}

}  // namespace

#endif  // NATIVE_PRODUCT_H_
