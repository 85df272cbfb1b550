// Convolution of (N, C, H, W) arrays by Winograd's method, and its gradients, in three steps:
// 1. to points: maps of images, or kernels, become values at the points (winograd_transforms.h);
// 2. products: a matrix product for each of the 49 pairs of points;
// 3. to maps: the products' values become maps, or kernels, again.
// The values of many tiles are a matrix for each pair of points, with a tile in each row and a
// channel in each column; those of the weights have a channel in each row and a filter in each
// column. Threads share each step, and no sum depends on how many threads there are.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "winograd_layout.h"

namespace {

void transform_part(const Convolution& c, Step::Kind kind, const Part& part, const Window& w,
                    const PointMatrices& matrices, int64_t channel) {
  transform({kind, c.side, part.rows * c.tiles[1], c.tiles[1], w.elements,
             matrices.values(part.first_tile, channel)});
}

// Between a kernel of 16 channels, its elements one after the other, and its values at the points.
void transform_kernel(const Convolution& c, Step::Kind kind, float* kernel, float* values,
                      int64_t point_stride) {
  transform({kind, c.side, 1, 1, {kernel, c.side * kLanes, kLanes}, {values, 0, point_stride}});
}

// To points: x's maps of group g.
void transform_inputs(const Convolution& c, const std::vector<Part>& all, const float* x,
                      int64_t g, const PointMatrices& inputs) {
  for_each_part(all, c.channels, [&](const Part& part, int64_t first) {
    const Window& w = input_window(c, part);
    for_each_input_row(c, w, x + c.input(part.image, g), first,
                       [&](int64_t l, int64_t row, int64_t column, int64_t n, const float* from,
                           int64_t stride) {
                         float* to = w.at(row, column) + l;
                         for (int64_t i = 0; i < n; ++i) to[i * kLanes] = from[i * stride];
                       });
    transform_part(c, Step::kInputs, part, w, inputs, first);
  });
}

// To points: a group's weights, with a channel in each row and a filter in each column, or the
// other way round, in `buffer`. known: it has them already.
PointPanels transform_weights(const Convolution& c, const float* w, bool filters_in_rows,
                              std::vector<float>* buffer, bool known) {
  const int64_t rows = filters_in_rows ? c.filters : c.channels;
  const int64_t lanes = filters_in_rows ? c.channels : c.filters, width = panel_width();
  const int64_t size = (lanes + width - 1) / width * width * rows;
  const PointPanels panels = {aligned(buffer, kValues * size), size, rows * width, width, width};
  if (known) return panels;
  parallel_for(blocks(lanes), [&](int64_t block) {
    const int64_t first = block * kLanes, many = std::min(kLanes, lanes - first);
    for (int64_t row = 0; row < rows; ++row) {
      float kernel[kMostElements * kLanes] = {};
      for (int64_t l = 0; l < many; ++l)
        for_each_element(c, filters_in_rows ? row : first + l, filters_in_rows ? first + l : row,
                         [&](int64_t e, int64_t index) { kernel[e * kLanes + l] = w[index]; });
      transform_kernel(c, Step::kWeights, kernel, panels.at(row, first), size);
    }
  });
  return panels;
}

// The weights' values at the points, and the weights that they were computed of.
struct KeptWeights {
  std::vector<float> weights;
  std::vector<std::vector<float>> values;  // of each group
  // Compares all, since neither an address nor MXNet's count of versions tells whether weights have
  // changed: MXNet hands over a copy of those that it has in a layout of its own.
  bool are_of(const Convolution& c, const float* w) const {
    const int64_t count = c.groups * c.weights();
    if (static_cast<int64_t>(weights.size()) != count) return false;
    std::atomic<bool> same(true);
    split(count, [&](int64_t first, int64_t last) {
      if (std::memcmp(&weights[first], w + first, (last - first) * sizeof(float))) same = false;
    });
    return same;
  }
};

// To maps: y's of group g, with bias and relu.
void transform_outputs(const Convolution& c, const std::vector<Part>& all,
                       const PointMatrices& outputs, int64_t g, const float* bias, float* y) {
  const float least = c.relu ? 0 : -std::numeric_limits<float>::infinity();
  for_each_part(all, c.filters, [&](const Part& part, int64_t first) {
    const Window& w = output_window(c, part);
    transform_part(c, Step::kOutputs, part, w, outputs, first);
    for_each_row(c, w, first, [&](int64_t l, int64_t row, int64_t n) {
      const float* from = w.at(row, 0) + l;
      float* to = y + c.output(part.image, g, first + l, row);
      for (int64_t i = 0; i < n; ++i) {
        const float value = from[i * kLanes] + bias[g * c.filters + first + l];
        to[i] = value < least ? least : value;  // NaN stays NaN
      }
    });
  });
}

// A group's channels are the depth of the products. kept: null, or what an earlier call kept.
void convolve(const Convolution& c, const float* x, const float* w, const float* bias, float* y,
              KeptWeights* kept) {
  static thread_local std::vector<float> buffers[3];
  const int64_t most = c.together() * c.tiles_of_image();
  const PointMatrices inputs = point_matrices(&buffers[0], most, c.channels);
  const PointMatrices outputs = point_matrices(&buffers[1], most, c.filters);
  const bool known = kept && kept->are_of(c, w);
  if (kept && !known) *kept = {{}, std::vector<std::vector<float>>(c.groups)};
  for (int64_t g = 0; g < c.groups; ++g) {
    const PointPanels weights = transform_weights(
        c, w + g * c.weights(), false, kept ? &kept->values[g] : &buffers[2], known);
    for (int64_t image = 0; image < c.images; image += c.together()) {
      const int64_t last = std::min(c.images, image + c.together());
      const std::vector<Part> all = parts(c, image, last, kMostRows);
      transform_inputs(c, all, x, g, inputs);
      multiply_at_points(inputs, (last - image) * c.tiles_of_image(), weights, padded(c.filters),
                         c.channels, outputs, false);
      transform_outputs(c, all, outputs, g, bias, y);
    }
  }
  if (kept && !known) kept->weights.assign(w, w + c.groups * c.weights());
}

// To points: y's gradient; with a relu, only where y is above 0. Its sums are added to dbias.
void transform_output_gradients(const Convolution& c, const std::vector<Part>& all,
                                const float* dy, const float* y, int64_t g,
                                const PointMatrices& gradients, float* dbias) {
  static thread_local std::vector<float> buffer;
  buffer.assign(all.size() * padded(c.filters), 0.0f);
  const std::vector<float> ones(c.out[1], 1.0f);
  std::vector<float>& sums = buffer;  // in a lambda, `buffer` would be the thread's own
  for_each_part(all, c.filters, [&](const Part& part, int64_t first) {
    const Window& w = output_window(c, part);
    for_each_row(c, w, first, [&](int64_t l, int64_t row, int64_t n) {
      const int64_t at = c.output(part.image, g, first + l, row);
      const float *from = dy + at, *on = c.relu ? y + at : ones.data();
      float* to = w.at(row, 0) + l;
      for (int64_t i = 0; i < n; ++i) {
        const float value = from[i];  // read in any case, or there would be a branch
        to[i * kLanes] = on[i] > 0 ? value : 0;
      }
    });
    float* const sum = &sums[(&part - &all[0]) * padded(c.filters) + first];
    for (int64_t i = 0; i < w.rows * w.columns; ++i)
      for (int64_t l = 0; l < kLanes; ++l) sum[l] += w.elements.data[i * kLanes + l];
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
    for_each_input_row(c, w, dx + c.input(part.image, g), first,
                       [&](int64_t l, int64_t row, int64_t column, int64_t n, float* to,
                           int64_t stride) {
                         const float* from = w.at(row, column) + l;
                         for (int64_t i = 0; i < n; ++i) to[i * stride] = from[i * kLanes];
                       });
  });
}

// To kernels: the weights' gradients of a group.
void transform_weight_gradients(const Convolution& c, const PointMatrices& sums, float* dw) {
  parallel_for(blocks(c.filters) * c.channels, [&](int64_t task) {
    const int64_t first = task / c.channels * kLanes, channel = task % c.channels;
    float kernel[kMostElements * kLanes];
    transform_kernel(c, Step::kWeightGradients, kernel, sums.first.at(channel, first),
                     sums.stride);
    for (int64_t l = 0; l < std::min(kLanes, c.filters - first); ++l)
      for_each_element(c, first + l, channel, [&](int64_t e, int64_t index) {
        dw[index] = kernel[e * kLanes + l];
      });
  });
}

// Of the products, the weights' gradients sum over all tiles, the inputs' over a group's filters.
// dx may be null, if x's gradients are not wanted.
void differentiate(const Convolution& c, const float* dy, const float* x, const float* w,
                   const float* y, float* dx, float* dw, float* dbias) {
  static thread_local std::vector<float> buffers[5];
  const int64_t most = c.together() * c.tiles_of_image(), width = panel_width();
  const PointMatrices inputs = point_matrices(&buffers[0], most, c.channels);
  const PointMatrices gradients = point_matrices(&buffers[1], most, c.filters);
  const PointMatrices sums = point_matrices(&buffers[3], padded(c.channels), c.filters);
  const PointPanels gradient_panels = {gradients.first.data, gradients.stride, width,
                                       gradients.first.row_stride, width};
  std::fill_n(dbias, c.groups * c.filters, 0.0f);
  if (dx && c.stride > 1)  // no window may reach the last pixels
    std::fill_n(dx, c.input(c.images, 0), 0.0f);
  for (int64_t g = 0; g < c.groups; ++g) {
    PointMatrices back = {};
    PointPanels weights = {};
    if (dx) {
      back = point_matrices(&buffers[2], most, c.channels);
      weights = transform_weights(c, w + g * c.weights(), true, &buffers[4], false);
    }
    for (int64_t image = 0; image < c.images; image += c.together()) {
      const int64_t last = std::min(c.images, image + c.together());
      const int64_t tiles = (last - image) * c.tiles_of_image();
      const std::vector<Part> all = parts(c, image, last, kMostRows);
      transform_inputs(c, all, x, g, inputs);
      transform_output_gradients(c, all, dy, y, g, gradients, dbias + g * c.filters);
      multiply_at_points(inputs.transposed(), padded(c.channels), gradient_panels,
                         padded(c.filters), tiles, sums, image > 0);
      if (!dx) continue;
      multiply_at_points(gradients, tiles, weights, padded(c.channels), c.filters, back, false);
      transform_input_gradients(c, parts(c, image, last, c.tiles[0]), back, g, dx);
    }
    transform_weight_gradients(c, sums, dw + g * c.weights());
  }
}

}  // namespace
