// 8-bit images, cropped and made float32: plain C functions for the thread that reads images, which
// must not wait for the engine.
#ifndef NATIVE_PIXELS_H_
#define NATIVE_PIXELS_H_

#include <cstdint>

#include "common.h"

namespace {

// One channel of a row, of every `channels`th value.
DISPATCHED void take_row(const uint8_t* x, int64_t channels, uint8_t mirrored, uint8_t* y,
                         int64_t width) {
  if (mirrored) {
    for (int64_t p = 0; p < width; ++p) y[width - 1 - p] = x[p * channels];
  } else {
    for (int64_t p = 0; p < width; ++p) y[p] = x[p * channels];
  }
}

DISPATCHED void take_rgb_row(const uint8_t* x, uint8_t mirrored, uint8_t* y, int64_t plane,
                             int64_t width) {
  uint8_t *red = y, *green = y + plane, *blue = y + 2 * plane;
  if (mirrored) {
    for (int64_t p = 0; p < width; ++p) {
      red[width - 1 - p] = x[3 * p];
      green[width - 1 - p] = x[3 * p + 1];
      blue[width - 1 - p] = x[3 * p + 2];
    }
  } else {
    for (int64_t p = 0; p < width; ++p) {
      red[p] = x[3 * p];
      green[p] = x[3 * p + 1];
      blue[p] = x[3 * p + 2];
    }
  }
}

DISPATCHED void normalize_plane(const uint8_t* x, float shift, float deviation, float* y,
                                int64_t size) {
  for (int64_t i = 0; i < size; ++i) y[i] = (x[i] + shift) / deviation;
}

}  // namespace

// y (images, channels, height, width) = crops of images of which the first row and column are
// pointed at, (rows, columns, channels); row: bytes from a row to the next.
extern "C" void alexnet_crop(const uint8_t** x, const int64_t* row, const uint8_t* mirrored,
                             uint8_t* y, int64_t images, int64_t channels, int64_t height,
                             int64_t width) {
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t r = 0; r < height; ++r) {
      const uint8_t* from = x[i] + r * row[i];
      uint8_t* to = y + (i * channels * height + r) * width;
      if (channels == 3) {
        take_rgb_row(from, mirrored[i], to, height * width, width);
      } else {
        for (int64_t c = 0; c < channels; ++c)
          take_row(from + c, channels, mirrored[i], to + c * height * width, width);
      }
    }
  }
}

// y = (x + shift of the plane) / deviation of the channel; x and y are (images, channels, plane).
extern "C" void alexnet_normalize(const uint8_t* x, const float* shift, const float* deviation,
                                  float* y, int64_t images, int64_t channels, int64_t plane) {
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < images * channels; ++i) {
    normalize_plane(x + i * plane, shift[i], deviation[i % channels], y + i * plane, plane);
  }
}

#endif  // NATIVE_PIXELS_H_
