// One binary for every x86-64 processor: operators are compiled for AVX-512, for AVX2 and for the
// baseline (SSE2), and all of them run the same variant.
//
// It is the best one that the processor has. The environment variable DNNL_MAX_CPU_ISA, which
// limits MXNet's own convolutions, also limits ours: SSE41 and AVX choose the baseline, AVX2 and
// all values that begin with AVX2 choose AVX2. It is read once, when the library is loaded.
#pragma once

#include <cstdlib>
#include <string>

#define INLINED inline __attribute__((always_inline))
#define INLINED_LAMBDA __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_VARIANTS
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512vl,fma")))
#else  // no such variants
#define AVX2
#define AVX512
#endif

namespace {

enum Variant { kBaseline, kAvx2, kAvx512 };

Variant best_variant() {
#ifdef HAS_VARIANTS
  const char* limit = std::getenv("DNNL_MAX_CPU_ISA");
  const std::string isa = limit ? limit : "ALL";
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!avx2 || isa == "SSE41" || isa == "AVX") return kBaseline;
  if (isa.compare(0, 4, "AVX2") != 0 && __builtin_cpu_supports("avx512vl")) return kAvx512;
  return kAvx2;
#else
  return kBaseline;
#endif
}

const Variant kVariant = best_variant();

// Body::run, compiled for each kind of processor.
template <typename Body, typename... Arguments>
void run_baseline(const Arguments&... arguments) {
  Body::run(arguments...);
}

template <typename Body, typename... Arguments>
AVX2 void run_avx2(const Arguments&... arguments) {
  Body::run(arguments...);
}

template <typename Body, typename... Arguments>
AVX512 void run_avx512(const Arguments&... arguments) {
  Body::run(arguments...);
}

// Calls Body::run, which has to be INLINED, in the variant in use.
template <typename Body, typename... Arguments>
void dispatch(const Arguments&... arguments) {
  switch (kVariant) {
    case kAvx512:
      return run_avx512<Body>(arguments...);
    case kAvx2:
      return run_avx2<Body>(arguments...);
    default:
      return run_baseline<Body>(arguments...);
  }
}

}  // namespace

// The variant in use, for the report of `python -m common.doctor` and for tests.
extern "C" const char* alexnet_variant() {
  static const char* const names[] = {"baseline", "AVX2", "AVX-512"};
  return names[kVariant];
}
