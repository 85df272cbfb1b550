// alexnet_normalize: 8-bit images to float32. A plain C function for the thread that reads images,
// which must not wait for the engine.
#ifndef NATIVE_NORMALIZE_H_
#define NATIVE_NORMALIZE_H_

#include <cstdint>

#include "common.h"

namespace {

DISPATCHED void normalize_plane(const uint8_t* x, float shift, float deviation, float* y,
                                int64_t size) {
  for (int64_t i = 0; i < size; ++i) y[i] = (x[i] + shift) / deviation;
}

}  // namespace

// y = (x + shift of the plane) / deviation of the channel; x and y are (images, channels, plane).
extern "C" void alexnet_normalize(const uint8_t* x, const float* shift, const float* deviation,
                                  float* y, int64_t images, int64_t channels, int64_t plane) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < images * channels; ++i) {
    normalize_plane(x + i * plane, shift[i], deviation[i % channels], y + i * plane, plane);
  }
}

#endif  // NATIVE_NORMALIZE_H_
