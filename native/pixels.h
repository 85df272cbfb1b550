// Crops and normalisation of 8-bit images: plain C functions for the thread that reads images,
// which must not wait for the engine.
#pragma once

#include <cstdint>

#include "parallel.h"
#include "variants.h"

namespace {

// One channel of a row: every `channels`th value.
struct TakeRow {
  static INLINED void run(const uint8_t* x, int64_t channels, uint8_t mirrored, uint8_t* y,
                          int64_t width) {
    if (mirrored) {
      for (int64_t p = 0; p < width; ++p) y[width - 1 - p] = x[p * channels];
    } else {
      for (int64_t p = 0; p < width; ++p) y[p] = x[p * channels];
    }
  }
};

struct TakeRgbRow {
  static INLINED void run(const uint8_t* x, uint8_t mirrored, uint8_t* y, int64_t plane,
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
};

struct NormalizePlane {
  static INLINED void run(const uint8_t* x, float shift, float deviation, float* y, int64_t size) {
    for (int64_t i = 0; i < size; ++i) y[i] = (x[i] + shift) / deviation;
  }
};

}  // namespace

// Crops images: y is (images, channels, height, width). x points at each crop's first value, in an
// image whose values are (rows, columns, channels); row_stride: bytes from a row to the next.
extern "C" void alexnet_crop(const uint8_t** x, const int64_t* row_stride, const uint8_t* mirrored,
                             uint8_t* y, int64_t images, int64_t channels, int64_t height,
                             int64_t width) {
  parallel_for(images * height, [&](int64_t i) {
    const int64_t image = i / height, row = i % height;
    const uint8_t* const from = x[image] + row * row_stride[image];
    uint8_t* const to = y + (image * channels * height + row) * width;
    if (channels == 3)
      return dispatch<TakeRgbRow>(from, mirrored[image], to, height * width, width);
    for (int64_t c = 0; c < channels; ++c)
      dispatch<TakeRow>(from + c, channels, mirrored[image], to + c * height * width, width);
  });
}

// y = (x + the plane's shift) / the channel's deviation; x and y are (images, channels, plane).
extern "C" void alexnet_normalize(const uint8_t* x, const float* shift, const float* deviation,
                                  float* y, int64_t images, int64_t channels, int64_t plane) {
  parallel_for(images * channels, [&](int64_t i) {
    const int64_t at = i * plane;
    dispatch<NormalizePlane>(x + at, shift[i], deviation[i % channels], y + at, plane);
  });
}
