// _alexnet_first_convolution: a network's first convolution, with a stride, for training; a relu
// after it if asked for. Its input gets no gradient: nothing reads one.
//
// The outputs are plain sums: the rounding of Winograd's method would turn relus over, and with
// them the whole network's gradients. The weights' gradients, which decide nothing, are Winograd's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "convolution.h"

namespace {

// Channels of stride 1, each a plane without gaps, and where in them a filter's weights find the
// pixels of the first output; an output's pixels are `columns` a row further.
struct Planes {
  int64_t rows, columns;
  std::vector<int64_t> offsets;
};

Planes planes_of(const Convolution& c) {
  const int64_t rows = c.out[0] + c.side - 1, columns = c.out[1] + c.side - 1, s = c.stride;
  Planes planes = {rows, columns, {}};
  for (int64_t map = 0; map < c.maps(); ++map)
    for (int64_t i = 0; i < c.kernel; ++i)
      for (int64_t j = 0; j < c.kernel; ++j) {
        const int64_t channel = (map * s + i % s) * s + j % s;
        planes.offsets.push_back((channel * rows + i / s) * columns + j / s);
      }
  return planes;
}

// An image as such planes, in the calling thread's memory.
const float* fill(const Convolution& c, const Planes& planes, const float* x) {
  static thread_local std::vector<float> buffer;
  Window w;  // all of the image
  w.top = 0;
  w.rows = planes.rows;
  w.columns = planes.columns;
  // The last panel reads beyond the last plane.
  buffer.assign(c.channels * w.rows * w.columns + c.side + 2 * best_kernel().width, 0.0f);
  for (int64_t first = 0; first < c.channels; first += kLanes)
    for_each_input_row(c, w, x, first,
                       [&](int64_t l, int64_t row, int64_t column, int64_t n, const float* from,
                           int64_t stride) {
                         float* to = &buffer[((first + l) * w.rows + row) * w.columns + column];
                         for (int64_t i = 0; i < n; ++i) to[i] = from[i * stride];
                       });
  return buffer.data();
}

// The outputs of all filters at `width` places from `place` on, counted with the planes' columns.
void sum_at(const Convolution& c, const Kernel& kernel, const Planes& planes, const float* image,
            int64_t place, const float* w, float* panel, float* sums) {
  const int64_t width = 2 * kernel.width, third = kernel.rows / 3;
  Tile tile = {};
  tile.depth = tile.a_row_stride = static_cast<int64_t>(planes.offsets.size());
  tile.a_column_stride = 1;
  tile.b = tile.next = panel;
  tile.b_row_stride = tile.c_row_stride = width;
  for (int64_t p = 0; p < tile.depth; ++p)
    std::copy_n(image + planes.offsets[p] + place, width, panel + p * width);
  for (int64_t f = 0; f < c.filters; f += kernel.rows) {
    tile.a = w + f * tile.depth;
    tile.c = sums + f * width;
    kernel.multiply_tile(tile, (std::min(kernel.rows, c.filters - f) + third - 1) / third, 2);
  }
}

INLINED void add_bias(const float* sums, float bias, float least, int64_t n, float* __restrict y) {
  for (int64_t i = 0; i < n; ++i) y[i] = sums[i] + bias < least ? least : sums[i] + bias;
}

// y's maps of an image. w: with some rows behind the last filter's.
void convolve_plainly(const Convolution& c, const Planes& planes, const float* x, const float* w,
                      const float* bias, float* y) {
  static thread_local std::vector<float> buffers[2];
  const Kernel& kernel = best_kernel();
  const int64_t width = 2 * kernel.width, map = c.out[0] * c.out[1];
  const float least = c.relu ? 0 : -std::numeric_limits<float>::infinity();
  const float* const image = fill(c, planes, x);
  float* const panel = aligned(&buffers[0], planes.offsets.size() * width);
  float* const sums = aligned(&buffers[1], (c.filters + kernel.rows) * width);
  for (int64_t place = 0; place < c.out[0] * planes.columns; place += width) {
    sum_at(c, kernel, planes, image, place, w, panel, sums);
    for (int64_t i = 0; i < width;) {
      const int64_t row = (place + i) / planes.columns, column = (place + i) % planes.columns;
      const int64_t n = std::min(width - i, c.out[1] - column);
      if (row < c.out[0])
        for (int64_t f = 0; f < c.filters; ++f)
          add_bias(sums + f * width + i, bias[f], least, n, y + f * map + row * c.out[1] + column);
      i += n > 0 ? n : 1;  // the planes are wider than the output
    }
  }
}

void first_convolution_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  with_arrays(attrs, in, out, [](const Convolution& c, const float* x, const float* w,
                                 const float* bias, float* y) {
    const Planes planes = planes_of(c);
    std::vector<float> weights(w, w + c.groups * c.weights());
    weights.resize(weights.size() + best_kernel().rows * planes.offsets.size());
    parallel_for(c.images * c.groups, [&](int64_t task) {
      const int64_t image = task / c.groups, g = task % c.groups;
      convolve_plainly(c, planes, x + c.input(image, g), &weights[g * c.weights()],
                       bias + g * c.filters, y + c.output(image, g, 0, 0));
    });
  });
}

}  // namespace

REGISTER_OP(_alexnet_first_convolution)
    .setParseAttrs(counts<3, 1>)
    .setInferType(float32_only)
    .setInferShape(infer_shape<convolution_shape>)
    .setForward(compute<first_convolution_forward>, "cpu")
    .setBackward(compute<convolution_backward<false>>, "cpu");
