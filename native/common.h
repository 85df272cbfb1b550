// What the operators share: MXNet's extension interface, dispatch, attributes.
#ifndef NATIVE_COMMON_H_
#define NATIVE_COMMON_H_

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <vector>

#include "mxnet/lib_api.h"

using namespace mxnet::ext;  // NOLINT: the interface is meant to be used so

typedef std::unordered_map<std::string, std::string> Attributes;

// One binary for every x86-64 processor: the loader picks the clone that this one can run.
#if defined(__x86_64__) && defined(__GNUC__)
#define DISPATCHED __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define DISPATCHED
#endif

#define INLINED inline __attribute__((always_inline))

namespace {

const int kUnknown = -1;  // a type that MXNet is still to infer

bool has(const Attributes& attrs, const char* name) { return attrs.find(name) != attrs.end(); }

double number(const Attributes& attrs, const char* name, double standard) {
  return has(attrs, name) ? std::atof(attrs.at(name).c_str()) : standard;
}

// "(3, 2)" or "[3, 2]" -> 3, 2: MXNet's ways to write a pair; false if one is below `least`.
bool pair(const Attributes& attrs, const char* name, int64_t least, int64_t* values) {
  long rows = 0, columns = 0;  // NOLINT: what sscanf takes
  const bool read = has(attrs, name) && std::sscanf(attrs.at(name).c_str(), "%*1[([]%ld ,%ld",
                                                    &rows, &columns) == 2;
  values[0] = rows;
  values[1] = columns;
  return read && rows >= least && columns >= least;
}

MXReturnValue float32_only(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  for (int& type : *in) {
    if (type != kFloat32 && type != kUnknown) {
      MX_ERROR_MSG << "this operator takes float32 only";
      return MX_FAIL;
    }
    type = kFloat32;
  }
  out->at(0) = kFloat32;
  return MX_SUCCESS;
}

MXReturnValue one_to_one(const Attributes&, int* inputs, int* outputs) {
  *inputs = *outputs = 1;
  return MX_SUCCESS;
}

// Data, weight and bias.
MXReturnValue three_to_one(const Attributes&, int* inputs, int* outputs) {
  *inputs = 3;
  *outputs = 1;
  return MX_SUCCESS;
}

}  // namespace

#endif  // NATIVE_COMMON_H_
