// MXNet 1.9.1 divides by the sides of an image that it could not decode, which are 0, in order to
// resize it: the processor raises SIGFPE and the process dies. Here the quotient becomes 0, as on
// ARM, and OpenCV then refuses the empty image with an exception that reaches Python.

#pragma once

#if defined(__x86_64__) && defined(__linux__)

#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include <cstdint>

namespace division {

struct sigaction before;

// Bytes of the div or idiv at `code`, of 32 or 64 bits; 0 for any other instruction.
inline int length(const uint8_t* code) {
  const uint8_t* at = code;
  if ((*at & 0xf0) == 0x40) ++at;  // REX prefix
  if (*at++ != 0xf7 || (*at >> 3 & 7) < 6) return 0;
  const int mod = *at >> 6, rm = *at & 7;
  ++at;
  if (mod == 3) return at - code;  // by a register
  int displacement = mod == 2 || (mod == 0 && rm == 5) ? 4 : mod;
  if (rm == 4 && (*at++ & 7) == 5 && mod == 0) displacement = 4;  // SIB byte without a base
  return at - code + displacement;
}

inline void on_sigfpe(int, siginfo_t* info, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const uint8_t* code = reinterpret_cast<const uint8_t*>(registers[REG_RIP]);
  Dl_info library;
  const bool ours = info->si_code == FPE_INTDIV && dladdr(code, &library) &&
                    strstr(library.dli_fname, "libmxnet");
  const int skipped = ours ? length(code) : 0;
  if (skipped == 0) {  // somebody else's: it happens again, and whoever was there before sees it
    sigaction(SIGFPE, &before, nullptr);
    return;
  }
  registers[REG_RAX] = registers[REG_RDX] = 0;  // quotient and remainder
  registers[REG_RIP] += skipped;
}

inline void survive() {
  struct sigaction action = {};
  action.sa_sigaction = on_sigfpe;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGFPE, &action, &before);
}

}  // namespace division

#else

namespace division {
inline void survive() {}
}  // namespace division

#endif
