// Sums of products of uint8 by int8, exact in 32 bits: in AMX's tiles, or by VNNI, of which one
// instruction adds four products to each of 16 sums, or of 8.
//
// Weights lie in blocks of 32 filters: for each four values one after the other, four weights of
// each filter; then zeros, up to a multiple of kQuads fours. common/graph/int8_operators.py lays
// them out so.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "amx.h"
#include "product.h"
#include "variants.h"

#if defined(HAS_VARIANTS) && !defined(ALEXNET_NO_VNNI)  // binutils 2.36
#define HAS_VNNI
#include <cpuid.h>
#endif

namespace {

const int64_t kFilters = 32;  // of a block of weights
const int64_t kRows = 12;     // of sums that registers hold
const int64_t kQuads = 16;    // of a tile

// Each place has `runs` rows of 4 * quads values, run_stride bytes apart.
struct Int8Product {
  int64_t runs, quads, run_stride;
  int64_t ahead;  // weights so many bytes ahead are fetched; 0: none
  int64_t all_quads() const { return in_blocks(runs * quads, kQuads) * kQuads; }
  int64_t weights() const { return all_quads() * 4 * kFilters; }  // of a block
};

// What makes sums of `count` places and some blocks of filters: sums[i * row + filter]. There are
// rows for `count` rounded up to kTileRows and to kRows; those beyond it may hold anything.
typedef void (*Int8Kernel)(const Int8Product&, const uint8_t* const* places, int64_t count,
                           const int8_t* weights, int64_t blocks, int32_t* sums, int64_t row);

struct MultiplyInt8 {
  static INLINED void run(const Int8Product& p, const uint8_t* const* places, int64_t count,
                          const int8_t* weights, int32_t* sums, int64_t row) {
    for (int64_t i = 0; i < count; ++i, sums += row) {
      const int8_t* w = weights;
      for (int64_t f = 0; f < kFilters; ++f) sums[f] = 0;
      for (int64_t r = 0; r < p.runs; ++r) {
        const uint8_t* const values = places[i] + r * p.run_stride;
        for (int64_t q = 0; q < 4 * p.quads; q += 4, w += 4 * kFilters)
          for (int64_t f = 0; f < kFilters; ++f)
            for (int64_t j = 0; j < 4; ++j) sums[f] += values[q + j] * w[4 * f + j];
      }
    }
  }
};

void multiply_int8_plain(const Int8Product& p, const uint8_t* const* places, int64_t count,
                         const int8_t* weights, int64_t blocks, int32_t* sums, int64_t row) {
  for (int64_t b = 0; b < blocks; ++b)
    dispatch<MultiplyInt8>(p, places, count, weights + b * p.weights(), sums + b * kFilters, row);
}

// Each place's values side by side, then tiles of 16 places with tiles of 16 filters.
void multiply_int8_in_tiles(const Int8Product& p, const uint8_t* const* places, int64_t count,
                            const int8_t* weights, int64_t blocks, int32_t* sums, int64_t row) {
  static thread_local std::vector<float> buffer;
  static thread_local std::vector<int64_t> a_at, b_at;
  const int64_t run = 4 * p.quads, stride = 4 * p.all_quads(), steps = p.all_quads() / kQuads;
  const int64_t rows = in_blocks(count, kTileRows) * kTileRows;
  char* const values = reinterpret_cast<char*>(aligned(&buffer, rows * p.all_quads()));
  for (int64_t i = 0; i < count; ++i) {
    char* const to = values + i * stride;
    for (int64_t r = 0; r < p.runs; ++r)
      std::memcpy(to + r * run, places[i] + r * p.run_stride, run);
    std::memset(to + p.runs * run, 0, stride - p.runs * run);
  }
  a_at.clear();
  b_at.clear();
  for (int64_t step = 0; step < steps; ++step) {
    a_at.push_back(step * 4 * kQuads);
    b_at.push_back(step * kQuads * 4 * kFilters);
  }
  BlockProduct product = {};
  product.a_at = a_at.data();
  product.b_at = b_at.data();
  product.steps = steps;
  product.a_row = stride;
  product.a_next = kTileRows * stride;
  product.b_row = 4 * kFilters;
  product.b_next = 4 * kTileRows;
  product.two_across = true;
  const AmxTiles tiles;
  for (int64_t b = 0; b < blocks; ++b) {
    product.b = weights + b * p.weights();
    for (int64_t i = 0; i < rows; i += kBlock) {
      product.a = values + i * stride;
      product.two_down = rows - i > kTileRows;
      multiply_block(product, sums + i * row + b * kFilters, row);
    }
  }
}

#ifdef HAS_VNNI

typedef int32_t Ints8 __attribute__((vector_size(32)));
typedef int32_t Ints16 __attribute__((vector_size(64)));

INLINED void add_products(Ints16* sums, const Ints16& values, const Ints16& weights) {
  asm("vpdpbusd %2, %1, %0" : "+v"(*sums) : "v"(values), "v"(weights));
}
INLINED void add_products(Ints8* sums, const Ints8& values, const Ints8& weights) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*sums) : "x"(values), "x"(weights));
}

// All sums of `count` places and `vectors` vectors of filters stay in registers.
template <typename Vector, int count, int vectors, bool fetch>
INLINED void multiply_in_registers(const Int8Product& p, const uint8_t* const* places,
                                   const int8_t* weights, int32_t* to, int64_t row) {
  const int64_t run = 4 * p.quads, run_stride = p.run_stride, ahead = p.ahead;
  Vector sums[count][vectors];
  const uint8_t* values[count];
#pragma GCC unroll 12
  for (int i = 0; i < count; ++i) {
    values[i] = places[i];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) sums[i][v] = Vector{};
  }
  for (int64_t r = 0; r < p.runs; ++r) {
    for (int64_t q = 0; q < run; q += 4, weights += 4 * kFilters) {
      Vector block[vectors];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; ++v)
        std::memcpy(&block[v], weights + v * sizeof(Vector), sizeof(Vector));
#pragma GCC unroll 2
      for (int v = 0; v < vectors && fetch; ++v)
        __builtin_prefetch(weights + ahead + v * sizeof(Vector), 0, 2);
#pragma GCC unroll 12
      for (int i = 0; i < count; ++i) {
        int32_t four;
        std::memcpy(&four, values[i] + q, 4);
        const Vector repeated = four - Vector{};
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) add_products(&sums[i][v], repeated, block[v]);
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < count; ++i) values[i] += run_stride;
  }
#pragma GCC unroll 12
  for (int i = 0; i < count; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v)
      std::memcpy(to + i * row + v * (sizeof(Vector) / 4), &sums[i][v], sizeof(Vector));
  }
}

// The filters of a block, as many at a time as registers hold for so many places.
template <typename Vector, int count>
INLINED void multiply_filters(const Int8Product& p, const uint8_t* const* places,
                              const int8_t* weights, int32_t* sums, int64_t row) {
  const int64_t width = 2 * sizeof(Vector) / 4;
  for (int64_t f = 0; f < kFilters; f += width) {
    if (p.ahead)
      multiply_in_registers<Vector, count, 2, true>(p, places, weights + 4 * f, sums + f, row);
    else
      multiply_in_registers<Vector, count, 2, false>(p, places, weights + 4 * f, sums + f, row);
  }
}

// Fewer places than `most`: the last one takes the rows of sums that remain, which are not read.
template <typename Vector, int most>
INLINED void multiply_rest(const Int8Product& p, const uint8_t* const* places, int64_t count,
                           const int8_t* weights, int32_t* sums, int64_t row) {
  const uint8_t* all[most];
  for (int i = 0; i < most; ++i) all[i] = places[std::min<int64_t>(i, count - 1)];
  multiply_filters<Vector, most>(p, all, weights, sums, row);
}

AVX512 void multiply_block_512(const Int8Product& p, const uint8_t* const* places, int64_t count,
                               const int8_t* weights, int32_t* sums, int64_t row) {
  for (; count >= 12; count -= 12, places += 12, sums += 12 * row)
    multiply_filters<Ints16, 12>(p, places, weights, sums, row);
  if (count > 8) return multiply_rest<Ints16, 12>(p, places, count, weights, sums, row);
  if (count > 4) return multiply_rest<Ints16, 8>(p, places, count, weights, sums, row);
  if (count > 1) return multiply_rest<Ints16, 4>(p, places, count, weights, sums, row);
  if (count > 0) multiply_filters<Ints16, 1>(p, places, weights, sums, row);
}

AVX2 void multiply_block_256(const Int8Product& p, const uint8_t* const* places, int64_t count,
                             const int8_t* weights, int32_t* sums, int64_t row) {
  for (; count >= 6; count -= 6, places += 6, sums += 6 * row)
    multiply_filters<Ints8, 6>(p, places, weights, sums, row);
  if (count > 1) return multiply_rest<Ints8, 6>(p, places, count, weights, sums, row);
  if (count > 0) multiply_filters<Ints8, 1>(p, places, weights, sums, row);
}

template <void (*multiply)(const Int8Product&, const uint8_t* const*, int64_t, const int8_t*,
                           int32_t*, int64_t)>
void multiply_int8_by_vnni(const Int8Product& p, const uint8_t* const* places, int64_t count,
                           const int8_t* weights, int64_t blocks, int32_t* sums, int64_t row) {
  for (int64_t b = 0; b < blocks; ++b)
    multiply(p, places, count, weights + b * p.weights(), sums + b * kFilters, row);
}

#endif

// DNNL_MAX_CPU_ISA may exclude VNNI, as it does for MXNet.
bool vnni_is_wanted() {
  const char* const limit = std::getenv("DNNL_MAX_CPU_ISA");
  const std::string isa = limit ? limit : "ALL";
  return isa != "AVX2" && isa != "AVX512_CORE" && isa.find("MIC") == std::string::npos;
}

#ifdef HAS_VNNI
// GCC before 11 does not know its name.
bool has_avx_vnni() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

const bool kVnni512 =
    kVariant == kAvx512 && vnni_is_wanted() && __builtin_cpu_supports("avx512vnni");
const bool kVnni256 = kVariant != kBaseline && vnni_is_wanted() && has_avx_vnni();
#endif

Int8Kernel best_int8_kernel() {
  if (kAmx) return multiply_int8_in_tiles;
#ifdef HAS_VNNI
  if (kVnni512) return multiply_int8_by_vnni<multiply_block_512>;
  if (kVnni256) return multiply_int8_by_vnni<multiply_block_256>;
#endif
  return multiply_int8_plain;
}

const Int8Kernel multiply_int8 = best_int8_kernel();

}  // namespace

// Whether int8 operators have instructions for it.
extern "C" bool alexnet_int8() { return multiply_int8 != multiply_int8_plain; }
