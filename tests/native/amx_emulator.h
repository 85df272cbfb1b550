// AMX's instructions on x86-64 processors that lack them: Linux reports an unknown instruction by
// SIGILL, and the handler does what Intel's manual (volume 2, TDPBF16PS and others) says of it.
// `g++ -include tests/native/amx_emulator.h` lets native/amx.h run as on a processor with AMX, some
// thousand times slower; one that has AMX executes the instructions itself. Each thread has tiles of
// its own. What is no such instruction ends the process as before.
#pragma once

#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define ALEXNET_EMULATED_TILES

namespace {
namespace emulated {

struct State {
  bool configured = false;
  uint16_t bytes[8];
  uint8_t rows[8];
  uint8_t values[8][16][64];
};

thread_local State state;
std::atomic<long> products{0};

[[noreturn]] void refuse() { std::abort(); }  // #UD or #GP on a processor

// The register of general use with this number, as instructions count them.
int64_t general(const ucontext_t* context, int number) {
  static const int kRegisters[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                   REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                   REG_R12, REG_R13, REG_R14, REG_R15};
  return context->uc_mcontext.gregs[kRegisters[number]];
}

struct Address {
  int64_t base, index;  // the index times its scale
  int length;           // bytes of ModRM, SIB and displacement
};

Address address_of(const ucontext_t* context, const uint8_t* modrm, bool high_base,
                   bool high_index) {
  const int mode = modrm[0] >> 6, rm = modrm[0] & 7;
  Address address = {0, 0, 1};
  if (mode == 3 || (mode == 0 && rm == 5)) refuse();  // a register; relative to the instruction
  int base = rm;
  if (rm == 4) {
    const int index = (modrm[1] >> 3 & 7) + 8 * high_index;
    if (index != 4) address.index = general(context, index) << (modrm[1] >> 6);
    base = modrm[1] & 7;
    address.length = 2;
    if (mode == 0 && base == 5) refuse();  // none is made by compilers here
  }
  address.base = general(context, base + 8 * high_base);
  const uint8_t* const displacement = modrm + address.length;
  if (mode == 1) {
    address.base += static_cast<int8_t>(displacement[0]);
    address.length += 1;
  } else if (mode == 2) {
    int32_t far;
    std::memcpy(&far, displacement, 4);
    address.base += far;
    address.length += 4;
  }
  return address;
}

void configure(const uint8_t* from) {
  if (from[0] != 1) refuse();  // the only palette
  state = State();
  state.configured = true;
  for (int t = 0; t < 8; ++t) {
    std::memcpy(&state.bytes[t], from + 16 + 2 * t, 2);
    state.rows[t] = from[48 + t];
    if (state.bytes[t] > 64 || state.rows[t] > 16) refuse();
  }
}

// A value of 32 bits, or 0 where it is below 2**-126.
float flushed(uint32_t bits) {
  if ((bits & 0x7f800000) == 0) bits &= 0x80000000;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float flushed(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return flushed(bits);
}

void check_tiles(int sums, int a, int b) {
  const State& s = state;
  if (s.bytes[sums] != s.bytes[b] || s.rows[sums] != s.rows[a] || s.bytes[a] != 4 * s.rows[b] ||
      sums == a || sums == b || a == b)
    refuse();
  products += 1;
}

void multiply_integers(int sums, int a, int b) {
  check_tiles(sums, a, b);
  for (int m = 0; m < state.rows[a]; ++m)
    for (int n = 0; n < state.bytes[b] / 4; ++n) {
      int32_t sum;
      std::memcpy(&sum, &state.values[sums][m][4 * n], 4);
      for (int k = 0; k < state.bytes[a]; ++k)
        sum += state.values[a][m][k] * static_cast<int8_t>(state.values[b][k / 4][4 * n + k % 4]);
      std::memcpy(&state.values[sums][m][4 * n], &sum, 4);
    }
}

void multiply(int sums, int a, int b) {
  const State& s = state;
  check_tiles(sums, a, b);
  for (int m = 0; m < s.rows[a]; ++m)
    for (int n = 0; n < s.bytes[b] / 4; ++n) {
      float sum, parts[2] = {0, 0};  // of even and of odd values
      for (int k = 0; k < s.bytes[a] / 2; ++k) {
        uint16_t left, right;
        std::memcpy(&left, &s.values[a][m][2 * k], 2);
        std::memcpy(&right, &s.values[b][k / 2][4 * n + k % 2 * 2], 2);
        // A product of two is exact in float32, so this is a fused multiply-add.
        const float product = flushed(uint32_t(left) << 16) * flushed(uint32_t(right) << 16);
        parts[k % 2] = flushed(parts[k % 2] + product);
      }
      std::memcpy(&sum, &state.values[sums][m][4 * n], 4);
      sum = flushed(flushed(sum) + flushed(parts[0] + parts[1]));
      std::memcpy(&state.values[sums][m][4 * n], &sum, 4);
    }
}

void run(int, siginfo_t*, void* at) {
  ucontext_t* const context = static_cast<ucontext_t*>(at);
  const uint8_t* const code = reinterpret_cast<const uint8_t*>(context->uc_mcontext.gregs[REG_RIP]);
  // VEX: C4, then R X B (inverted) and the map, then W, v (inverted), the length and the prefix.
  const bool is_vex = code[0] == 0xc4 && (code[1] & 0x1f) == 2 && !(code[2] & 0x84);
  const uint8_t prefix = code[2] & 3, operation = code[3], *const modrm = code + 4;
  const int reg = modrm[0] >> 3 & 7, rm = modrm[0] & 7;
  const bool is_register = modrm[0] >> 6 == 3;
  const int kNone = 0, k66 = 1, kF3 = 2, kF2 = 3;
  int length = 1;
  if (is_vex && operation == 0x49 && prefix == kNone && !is_register) {  // LDTILECFG
    const Address from = address_of(context, modrm, !(code[1] & 0x20), !(code[1] & 0x40));
    configure(reinterpret_cast<const uint8_t*>(from.base + from.index));
    length = from.length;
  } else if (is_vex && operation == 0x49 && prefix == kNone && modrm[0] == 0xc0) {  // TILERELEASE
    state = State();
  } else if (is_vex && !state.configured) {
    refuse();
  } else if (is_vex && operation == 0x49 && prefix == kF2 && is_register) {  // TILEZERO
    std::memset(state.values[reg], 0, sizeof(state.values[reg]));
  } else if (is_vex && operation == 0x4b && prefix != kNone && !is_register && rm == 4) {
    const Address memory = address_of(context, modrm, !(code[1] & 0x20), !(code[1] & 0x40));
    if (prefix != kF3) std::memset(state.values[reg], 0, sizeof(state.values[reg]));
    for (int row = 0; row < state.rows[reg]; ++row) {  // TILELOADD, TILELOADDT1, TILESTORED
      void* const place = reinterpret_cast<void*>(memory.base + row * memory.index);
      if (prefix == kF3) std::memcpy(place, state.values[reg][row], state.bytes[reg]);
      if (prefix == kF2 || prefix == k66)
        std::memcpy(state.values[reg][row], place, state.bytes[reg]);
    }
    length = memory.length;
  } else if (is_vex && operation == 0x5c && prefix == kF3 && is_register) {  // TDPBF16PS
    multiply(reg, rm, ~(code[2] >> 3) & 15);
  } else if (is_vex && operation == 0x5e && prefix == k66 && is_register) {  // TDPBUSD
    multiply_integers(reg, rm, ~(code[2] >> 3) & 15);
  } else {
    signal(SIGILL, SIG_DFL);  // the instruction runs again, and ends the process
    return;
  }
  context->uc_mcontext.gregs[REG_RIP] += 4 + length;
}

struct Installed {
  Installed() {
    struct sigaction action = {};
    action.sa_sigaction = run;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, nullptr);
  }
} const installed;

}  // namespace emulated
}  // namespace
