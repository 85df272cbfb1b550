// Convolution of (N, C, H, W) arrays, and its gradients, in three steps:
// 1. to points: tiles of images' maps, or kernels, become values at pairs of points
//    (winograd_transforms.h), or at frequencies (fourier_transforms.h), called points here, too;
// 2. products: a matrix product for each pair of points, of which there are 16 to 253;
// 3. to maps: the products' values become maps, or kernels, again.
// The values of many tiles are a matrix for each pair of points, with a tile in each row and a
// channel in each column; those of the weights have a channel in each row and a filter in each
// column. Threads share each step, and no sum depends on how many threads there are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "lanes.h"
#include "tiled_layout.h"
#include "tiled_products.h"
#include "tiled_weights.h"

namespace {

// Between a window and the values of a part's tiles, one kind after the other.
void transform_part(const Convolution& c, Step::Kind step, const Part& part, const Window& w,
                    const PointMatrices& matrices, int64_t channel) {
  for (int kind = 0; kind < kKinds; ++kind) {
    const bool small_down = kSmall[kind][0], small_across = kSmall[kind][1];
    const int64_t end = part.top + part.rows;
    const int64_t top = small_down ? std::max(part.top, c.large[0]) : part.top;
    const int64_t rows = (small_down ? end : std::min(end, c.large[0])) - top;
    const int64_t columns = small_across ? c.small[1] : c.large[1];
    if (rows <= 0 || columns == 0) continue;
    const int64_t before = small_down ? 0 : top * columns;  // tiles of the kind, in the image
    const int64_t tile =
        part.images * c.tiles_before(kind) + part.place * c.tiles_of_kind(kind) + before;
    const int64_t left = small_across ? c.start(1, c.large[1]) : 0;
    transform({step,
               c.side,
               {small_down ? kFewPoints : c.most, small_across ? kFewPoints : c.most},
               rows * columns,
               columns,
               w.elements.from(c.start(0, top) - w.top, left),
               matrices.values(tile, channel),
               matrices.first.row_stride});
  }
}

// To points: x's maps of group g.
void transform_inputs(const Convolution& c, const std::vector<Part>& all, const float* x,
                      int64_t g, const PointMatrices& inputs) {
  for_each_part(all, c.channels, [&](const Part& part, int64_t first) {
    const Window& w = input_window(c, part);
    const int64_t channels = std::min(kLanes, c.channels - first), map = c.in[0] * c.in[1];
    for_each_input_row(c, w, x + c.input(part.image, g), first, c.stride == 1 ? kLanes : 1,
                       [&](int64_t l, int64_t row, int64_t column, int64_t n, const float* from,
                           int64_t stride) {
                         float* to = w.at(row, column) + l;
                         if (stride == 1)
                           return rows_to_lanes(PlainRows<const float>{from, map}, channels, n, to);
                         for (int64_t i = 0; i < n; ++i) to[i * kLanes] = from[i * stride];
                       });
    transform_part(c, Step::kInputs, part, w, inputs, first);
  });
}

// To maps: y's of group g, with bias and relu.
void transform_outputs(const Convolution& c, const std::vector<Part>& all,
                       const PointMatrices& outputs, int64_t g, const float* bias, float* y) {
  const float least = c.relu ? 0 : -std::numeric_limits<float>::infinity();
  for_each_part(all, c.filters, [&](const Part& part, int64_t first) {
    const Window& w = output_window(c, part);
    transform_part(c, Step::kOutputs, part, w, outputs, first);
    const int64_t channels = std::min(kLanes, c.filters - first), map = c.out[0] * c.out[1];
    for_each_row(c, w, [&](int64_t row, int64_t n) {
      const PlainRows<float> rows = {y + c.output(part.image, g, first, row), map};
      lanes_to_rows(w.at(row, 0), channels, n,
                    OutputRows{rows, bias + g * c.filters + first, least});
    });
  });
}

// A group's channels are the depth of the products. kept: null, or where the weights' values are to
// stay. known: it has them.
void convolve(const Convolution& c, const float* x, const float* w, const float* bias, float* y,
              KeptWeights* kept, bool known) {
  static thread_local std::vector<float> buffers[3];
  const int64_t most = c.together() * c.tiles_of_image();
  const PointMatrices inputs = point_matrices(c, &buffers[0], most, c.channels);
  const PointMatrices outputs = point_matrices(c, &buffers[1], most, c.filters);
  for (int64_t g = 0; g < c.groups; ++g) {
    const WeightMatrix matrix = weight_matrix(c, w + g * c.weights(), false);
    PointPanels weights = {};
    if (kept || !weights_go_by_panels(c, matrix))
      weights = transform_weights(c, matrix, kept ? &kept->values[g] : &buffers[2], known);
    for (int64_t image = 0; image < c.images; image += c.together()) {
      const int64_t last = std::min(c.images, image + c.together());
      const std::vector<Part> all = parts(c, image, last, kMostRows);
      transform_inputs(c, all, x, g, inputs);
      multiply_by_weights(c, last - image, inputs, matrix, weights, outputs);
      transform_outputs(c, all, outputs, g, bias, y);
    }
  }
}

// To points: y's gradient; with a relu, only where y is above 0. Its sums are added to dbias.
void transform_output_gradients(const Convolution& c, const std::vector<Part>& all,
                                const float* dy, const float* y, int64_t g,
                                const PointMatrices& gradients, float* dbias) {
  static thread_local std::vector<float> buffer;
  buffer.resize(all.size() * padded(c.filters));
  std::vector<float>& sums = buffer;  // in a lambda, `buffer` would be the thread's own
  for_each_part(all, c.filters, [&](const Part& part, int64_t first) {
    const Window& w = output_window(c, part);
    const int64_t channels = std::min(kLanes, c.filters - first), map = c.out[0] * c.out[1];
    for_each_row(c, w, [&](int64_t row, int64_t n) {
      const int64_t at = c.output(part.image, g, first, row);
      rows_to_lanes(GradientRows{{dy + at, map}, {c.relu ? y + at : nullptr, map}}, channels, n,
                    w.at(row, 0));
    });
    float total[kLanes] = {};
    for (int64_t i = 0; i < w.rows * w.columns; ++i)
      for (int64_t l = 0; l < kLanes; ++l) total[l] += w.elements.data[i * kLanes + l];
    std::copy_n(total, kLanes, &sums[(&part - &all[0]) * padded(c.filters) + first]);
    transform_part(c, Step::kOutputGradients, part, w, gradients, first);
  });
  for (size_t p = 0; p < all.size(); ++p)
    for (int64_t k = 0; k < c.filters; ++k) dbias[k] += sums[p * padded(c.filters) + k];
}

// To maps: x's gradients of group g. Windows of neighbouring tiles overlap and are added, so a part
// is a whole image.
void transform_input_gradients(const Convolution& c, const std::vector<Part>& images,
                               const PointMatrices& back, int64_t g, float* dx) {
  for_each_part(images, c.channels, [&](const Part& part, int64_t first) {
    const Window& w = input_window(c, part);
    transform_part(c, Step::kInputGradients, part, w, back, first);
    const int64_t channels = std::min(kLanes, c.channels - first), map = c.in[0] * c.in[1];
    for_each_input_row(c, w, dx + c.input(part.image, g), first, c.stride == 1 ? kLanes : 1,
                       [&](int64_t l, int64_t row, int64_t column, int64_t n, float* to,
                           int64_t stride) {
                         const float* from = w.at(row, column) + l;
                         if (stride == 1)
                           return lanes_to_rows(from, channels, n, PlainRows<float>{to, map});
                         for (int64_t i = 0; i < n; ++i) to[i * stride] = from[i * kLanes];
                       });
  });
}

// Of the products, the weights' gradients sum over all tiles, the inputs' over a group's filters.
// dx may be null, if x's gradients are not wanted.
void differentiate(const Convolution& c, const float* dy, const float* x, const float* w,
                   const float* y, float* dx, float* dw, float* dbias) {
  static thread_local std::vector<float> buffers[5];
  const int64_t most = c.together() * c.tiles_of_image(), width = panel_width();
  const PointMatrices inputs = point_matrices(c, &buffers[0], most, c.channels);
  const PointMatrices gradients = point_matrices(c, &buffers[1], most, c.filters);
  const bool by_panels = goes_by_panels(c, c.filters);
  PointMatrices sums = {};
  if (!by_panels) sums = point_matrices(c, &buffers[3], padded(c.channels), c.filters);
  const PointPanels gradient_panels = {gradients.first.data, gradients.stride, width,
                                       gradients.first.row_stride, width};
  std::fill_n(dbias, c.groups * c.filters, 0.0f);
  if (dx && c.stride > 1)  // no window may reach the last pixels
    std::fill_n(dx, c.input(c.images, 0), 0.0f);
  for (int64_t g = 0; g < c.groups; ++g) {
    PointMatrices back = {};
    PointPanels weights = {};
    const WeightMatrix matrix = weight_matrix(c, w + g * c.weights(), true);
    if (dx) {
      back = point_matrices(c, &buffers[2], most, c.channels);
      if (!weights_go_by_panels(c, matrix))
        weights = transform_weights(c, matrix, &buffers[4], false);
    }
    for (int64_t image = 0; image < c.images; image += c.together()) {
      const int64_t last = std::min(c.images, image + c.together());
      const std::vector<Part> all = parts(c, image, last, kMostRows);
      transform_inputs(c, all, x, g, inputs);
      transform_output_gradients(c, all, dy, y, g, gradients, dbias + g * c.filters);
      if (by_panels)
        differentiate_weights_by_panels(c, inputs, gradient_panels, dw + g * c.weights());
      else
        multiply_at_points(c, last - image, {inputs.transposed(), gradient_panels, sums,
                                             padded(c.filters), padded(c.channels), true,
                                             image > 0, 0});
      if (!dx) continue;
      multiply_by_weights(c, last - image, gradients, matrix, weights, back);
      transform_input_gradients(c, parts(c, image, last, c.tiles(0)), back, g, dx);
    }
    if (by_panels) continue;
    parallel_for(blocks(c.filters) * c.channels, [&](int64_t task) {
      const int64_t first = task / c.channels * kLanes, channel = task % c.channels;
      // Fetched ahead, since they lie far apart.
      const View next = sums.values(std::min(channel + 2, c.channels - 1), first);
      for (int64_t i = 0; i < c.points(0); ++i)
        for (int64_t j = 0; j < c.points(1); ++j) __builtin_prefetch(next.at(i, j));
      transform_weight_gradients(c, sums, 0, first, channel, dw + g * c.weights());
    });
  }
}

}  // namespace
