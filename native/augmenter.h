// MXNet 1.9.1 resizes images by their sides, and those of an image that it cannot decode are 0: it
// divides by zero, and the process dies of SIGFPE. This file adds a check to its augmenter: such an
// image throws an exception, which MXNet hands to Python as it does any other.
//
// The check takes the place of one virtual function, DefaultImageAugmenter::Process, in the table
// of that class. Nothing else of the process changes, and to do it again does nothing.
#pragma once

#if defined(__linux__)

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <stdexcept>

namespace {

struct Picture {  // how a cv::Mat begins
  int flags, dimensions, rows, columns;
};

// As the compiler sees the member function: it writes a cv::Mat to `result` and returns that.
typedef void* (*Process)(void* result, void* augmenter, const Picture*, void* labels, void* random);
Process process_of_mxnet;

void* process_checked(void* result, void* augmenter, const Picture* picture, void* labels,
                      void* random) {
  if (picture->rows == 0 || picture->columns == 0)
    throw std::runtime_error("an image cannot be decoded");
  return process_of_mxnet(result, augmenter, picture, labels, random);
}

// Writes to a page that the loader has made read-only.
bool replace(void** slot, void* function) {
  const uintptr_t size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  void* const page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(slot) / size * size);
  if (mprotect(page, size, PROT_READ | PROT_WRITE) != 0) return false;
  __atomic_store_n(slot, function, __ATOMIC_SEQ_CST);
  mprotect(page, size, PROT_READ);
  return true;
}

}  // namespace

// Makes MXNet's image iterators refuse what they cannot decode. library: a handle of libmxnet.so.
// Returns whether they do; 0: this MXNet is built in another way, and nothing has changed.
extern "C" int alexnet_check_images(void* library) {
  static const int kMostFunctions = 8;
  void** const table =
      static_cast<void**>(dlsym(library, "_ZTVN5mxnet2io21DefaultImageAugmenterE"));
  void* const process = dlsym(
      library,
      "_ZN5mxnet2io21DefaultImageAugmenter7ProcessERKN2cv3MatEPSt6vectorIfSaIfEE"
      "PSt23mersenne_twister_engineImLm32ELm624ELm397ELm31ELm2567483615ELm11ELm4294967295ELm7E"
      "Lm2636928640ELm15ELm4022730752ELm18ELm1812433253EE");
  void* const checked = reinterpret_cast<void*>(process_checked);
  if (!table || !process) return 0;
  for (int i = 0; i < kMostFunctions; ++i) {
    if (table[i] == checked) return 1;
    if (table[i] != process) continue;
    process_of_mxnet = reinterpret_cast<Process>(process);
    return replace(&table[i], checked);
  }
  return 0;
}

#else

extern "C" int alexnet_check_images(void*) { return 0; }

#endif
