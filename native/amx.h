// Sums of products of bfloat16, or of uint8 by int8, in AMX's tiles, of Intel's server processors
// since 2023.
//
// A tile has 16 rows of 64 bytes. One instruction adds to 16 x 16 float32 sums the products of 16
// rows of 32 bfloat16 with 16 columns of as many; a column's values lie in pairs, each pair in one
// row. Values and sums below 2**-126 count as 0. Of 8-bit integers there are 64, in fours, and the
// sums are int32.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

#include "variants.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && defined(__has_include)
#if __has_include(<amxtileintrin.h>) && !defined(ALEXNET_NO_AMX)  // GCC 11, Clang 12
#define HAS_AMX_INTRINSICS
#endif
#endif

#ifdef HAS_AMX_INTRINSICS
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX __attribute__((target("amx-tile,amx-bf16,amx-int8")))
#else
#define AMX
#endif

namespace {

const int64_t kTileRows = 16;              // also columns of sums
const int64_t kStep = 32;                  // products of bfloat16 that one instruction adds
const int64_t kTileBytes = 16 * 64;        // of a tile whose rows follow each other
const int64_t kBlock = 2 * kTileRows;      // rows and columns of sums that tiles hold at a time

// c = a b, a block of kBlock rows and columns, or half of one of them or of both. The sums are over
// `steps` instructions. A step's tiles are a_at[step] and b_at[step] bytes behind a and b.
struct BlockProduct {
  const void *a, *b;
  const int64_t *a_at, *b_at;
  int64_t steps;
  int64_t a_row, b_row;    // bytes from a tile's row to the next
  int64_t a_next, b_next;  // bytes to the tile below, and to the one on the right
  bool two_down, two_across;
};

#ifdef HAS_AMX_INTRINSICS

// Whether the processor has tiles of bfloat16 and of integers and Linux lets this process use them.
bool tiles_are_there() {
  unsigned a, b, c, d;
  const unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, all = kBf16 | kTile | kInt8;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & all) != all) return false;
  const long kReqXcompPerm = 0x1023, kXtiledata = 18;
  return syscall(SYS_arch_prctl, kReqXcompPerm, kXtiledata) == 0;
}

// Has all that was stored so far in memory: GCC's instructions of tiles do not say what they read.
INLINED void write_to_memory(const void* address) { asm volatile("" : : "r"(address) : "memory"); }

// The calling thread's tiles, in use.
class AmxTiles {
 public:
  AMX AmxTiles() {
    struct { uint8_t palette, first_row, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } all = {};
    all.palette = 1;
    for (int i = 0; i < 8; ++i) {
      all.bytes[i] = 64;
      all.rows[i] = kTileRows;
    }
    write_to_memory(&all);
    _tile_loadconfig(&all);
  }
  AMX ~AmxTiles() { _tile_release(); }
};

#define MULTIPLY_TILES(sums, a, b) \
  if (of_integers)                 \
    _tile_dpbusd(sums, a, b);      \
  else                             \
    _tile_dpbf16ps(sums, a, b)

template <bool of_integers, bool two_down, bool two_across>
AMX void multiply_block_of(const BlockProduct& p, void* c, int64_t c_row) {
  const char *const a = static_cast<const char*>(p.a), *const b = static_cast<const char*>(p.b);
  write_to_memory(p.a);
  _tile_zero(0);
  if (two_across) _tile_zero(1);
  if (two_down) _tile_zero(2);
  if (two_down && two_across) _tile_zero(3);
  for (int64_t step = 0; step < p.steps; ++step) {
    const char *const upper = a + p.a_at[step], *const left = b + p.b_at[step];
    _tile_loadd(4, upper, p.a_row);
    _tile_loadd(6, left, p.b_row);
    MULTIPLY_TILES(0, 4, 6);
    if (two_across) {
      _tile_loadd(7, left + p.b_next, p.b_row);
      MULTIPLY_TILES(1, 4, 7);
    }
    if (two_down) {
      _tile_loadd(5, upper + p.a_next, p.a_row);
      MULTIPLY_TILES(2, 5, 6);
    }
    if (two_down && two_across) {
      MULTIPLY_TILES(3, 5, 7);
    }
  }
  const int64_t row = c_row * sizeof(float), right = kTileRows * sizeof(float);
  char* const upper = static_cast<char*>(c);
  char* const lower = upper + kTileRows * row;
  _tile_stored(0, upper, row);
  if (two_across) _tile_stored(1, upper + right, row);
  if (two_down) _tile_stored(2, lower, row);
  if (two_down && two_across) _tile_stored(3, lower + right, row);
}

#else

bool tiles_are_there() { return false; }
struct AmxTiles {
  AmxTiles() {}  // is no unused variable
};
template <bool of_integers, bool two_down, bool two_across>
void multiply_block_of(const BlockProduct&, void*, int64_t) {}

#endif

// DNNL_MAX_CPU_ISA may exclude AMX, as it does for MXNet.
bool tiles_are_wanted() {
  const char* const limit = std::getenv("DNNL_MAX_CPU_ISA");
  const std::string isa = limit ? limit : "";
  return isa.empty() || isa == "ALL" || isa == "DEFAULT" || isa.find("AMX") != std::string::npos;
}

#ifdef ALEXNET_EMULATED_TILES  // tests/native/amx_emulator.h
const bool kEmulated = true;
#else
const bool kEmulated = false;
#endif
// Linux is asked in any case: the processor's own tiles go before emulated ones.
const bool kAmx = tiles_are_wanted() && (tiles_are_there() || kEmulated);

template <bool of_integers>
void multiply_block(const BlockProduct& p, void* c, int64_t c_row) {
  if (p.two_down && p.two_across) return multiply_block_of<of_integers, true, true>(p, c, c_row);
  if (p.two_down) return multiply_block_of<of_integers, true, false>(p, c, c_row);
  if (p.two_across) return multiply_block_of<of_integers, false, true>(p, c, c_row);
  multiply_block_of<of_integers, false, false>(p, c, c_row);
}

// Of bfloat16, or of integers. Rows of c are c_row sums apart. The calling thread has AmxTiles.
inline void multiply_block(const BlockProduct& p, float* c, int64_t c_row) {
  multiply_block<false>(p, static_cast<void*>(c), c_row);
}
inline void multiply_block(const BlockProduct& p, int32_t* c, int64_t c_row) {
  multiply_block<true>(p, static_cast<void*>(c), c_row);
}

}  // namespace

// Whether products of bfloat16, and of 8-bit integers, are AMX's.
extern "C" bool alexnet_amx() { return kAmx; }
