// Convolution of (N, C, H, W) arrays, and its gradients, in three steps:
// 1. to points: tiles of images' maps, or kernels, become values at pairs of points
//    (winograd_transforms.h), or at frequencies (fourier_transforms.h), called points here, too;
// 2. products: a matrix product for each pair of points, of which there are 25 to 253;
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

#include "lanes.h"
#include "tiled_layout.h"

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

// Between a kernel of 16 channels, its elements one after the other, and its values at the points.
void transform_kernel(const Convolution& c, Step::Kind step, float* kernel, const View& values) {
  transform({step, c.side, {c.points(0), c.points(1)}, 1, 1,
             {kernel, c.side * kLanes, kLanes}, values, 0});
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

// To points: a group's weights, with a channel in each row and a filter in each column, or the
// other way round, in `buffer`. known: it has them already.
PointPanels transform_weights(const Convolution& c, const float* w, bool filters_in_rows,
                              std::vector<float>* buffer, bool known) {
  const int64_t rows = filters_in_rows ? c.filters : c.channels;
  const int64_t lanes = filters_in_rows ? c.channels : c.filters, width = panel_width();
  // Not a multiple of a page, or all points would share places in the cache.
  const int64_t size = (lanes + width - 1) / width * width * rows + kLanes;
  const PointPanels panels = {aligned(buffer, c.values() * size), size, rows * width, width, width};
  if (known) return panels;
  const int64_t elements = c.kernel * c.kernel;
  parallel_for(blocks(lanes), [&](int64_t block) {
    const int64_t first = block * kLanes, many = std::min(kLanes, lanes - first);
    for (int64_t row = 0; row < rows; ++row) {
      float kernel[kMostElements * kLanes] = {};
      if (c.stride == 1) {
        const int64_t of_row = filters_in_rows ? c.channels * elements : elements;
        const int64_t of_lane = filters_in_rows ? elements : c.channels * elements;
        const float* const from = w + row * of_row + first * of_lane;
        rows_to_lanes(PlainRows<const float>{from, of_lane}, many, elements, kernel);
      } else {
        for (int64_t l = 0; l < many; ++l)
          for_each_element(c, filters_in_rows ? row : first + l, filters_in_rows ? first + l : row,
                           [&](int64_t e, int64_t index) { kernel[e * kLanes + l] = w[index]; });
      }
      const View values = {panels.at(row, first), c.points(1) * size, size};
      for (int64_t i = 0; !c.by_fourier() && i < c.values(); ++i)
        __builtin_prefetch(values.data + i * size + 2 * width, 1);  // of a row that follows
      transform_kernel(c, Step::kWeights, kernel, values);
    }
  });
  return panels;
}

// The weights' values at the points, and the weights that they were computed of. Which points they
// are at depends on the sizes of the maps and on how many images there are.
struct KeptWeights {
  int64_t points[2];
  std::vector<float> weights;
  std::vector<std::vector<float>> values;  // of each group
  // Compares all, since neither an address nor MXNet's count of versions tells whether weights have
  // changed: MXNet hands over a copy of those that it has in a layout of its own.
  bool are_of(const Convolution& c, const float* w) const {
    const int64_t count = c.groups * c.weights();
    if (static_cast<int64_t>(weights.size()) != count) return false;
    if (points[0] != c.points(0) || points[1] != c.points(1)) return false;
    std::atomic<bool> same(true);
    split(count, [&](int64_t first, int64_t last) {
      if (std::memcmp(&weights[first], w + first, (last - first) * sizeof(float))) same = false;
    });
    return same;
  }
  void forget(const Convolution& c) {
    weights.clear();
    values.assign(c.groups, std::vector<float>());
    points[0] = c.points(0);
    points[1] = c.points(1);
  }
};

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
    const PointPanels weights = transform_weights(
        c, w + g * c.weights(), false, kept ? &kept->values[g] : &buffers[2], known);
    for (int64_t image = 0; image < c.images; image += c.together()) {
      const int64_t last = std::min(c.images, image + c.together());
      const std::vector<Part> all = parts(c, image, last, kMostRows);
      transform_inputs(c, all, x, g, inputs);
      multiply_at_points(c, last - image, {inputs, weights, outputs, padded(c.filters), c.channels,
                                           false, false});
      transform_outputs(c, all, outputs, g, bias, y);
    }
  }
}

// To points: y's gradient; with a relu, only where y is above 0. Its sums are added to dbias.
void transform_output_gradients(const Convolution& c, const std::vector<Part>& all,
                                const float* dy, const float* y, int64_t g,
                                const PointMatrices& gradients, float* dbias) {
  static thread_local std::vector<float> buffer;
  buffer.assign(all.size() * padded(c.filters), 0.0f);
  std::vector<float>& sums = buffer;  // in a lambda, `buffer` would be the thread's own
  for_each_part(all, c.filters, [&](const Part& part, int64_t first) {
    const Window& w = output_window(c, part);
    const int64_t channels = std::min(kLanes, c.filters - first), map = c.out[0] * c.out[1];
    for_each_row(c, w, [&](int64_t row, int64_t n) {
      const int64_t at = c.output(part.image, g, first, row);
      rows_to_lanes(GradientRows{{dy + at, map}, {c.relu ? y + at : nullptr, map}}, channels, n,
                    w.at(row, 0));
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

// To kernels: the weights' gradients of a group.
void transform_weight_gradients(const Convolution& c, const PointMatrices& sums, float* dw) {
  parallel_for(blocks(c.filters) * c.channels, [&](int64_t task) {
    const int64_t first = task / c.channels * kLanes, channel = task % c.channels;
    float kernel[kMostElements * kLanes];
    // Fetched ahead, since they lie far apart.
    const View next = sums.values(std::min(channel + 2, c.channels - 1), first);
    for (int64_t i = 0; i < c.points(0); ++i)
      for (int64_t j = 0; j < c.points(1); ++j) __builtin_prefetch(next.at(i, j));
    transform_kernel(c, Step::kWeightGradients, kernel, sums.values(channel, first));
    const int64_t many = std::min(kLanes, c.filters - first), elements = c.kernel * c.kernel;
    if (c.stride == 1) {
      float* const to = dw + (first * c.channels + channel) * elements;
      return lanes_to_rows(kernel, many, elements, PlainRows<float>{to, c.channels * elements});
    }
    for (int64_t l = 0; l < many; ++l)
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
  const PointMatrices inputs = point_matrices(c, &buffers[0], most, c.channels);
  const PointMatrices gradients = point_matrices(c, &buffers[1], most, c.filters);
  const PointMatrices sums = point_matrices(c, &buffers[3], padded(c.channels), c.filters);
  const PointPanels gradient_panels = {gradients.first.data, gradients.stride, width,
                                       gradients.first.row_stride, width};
  std::fill_n(dbias, c.groups * c.filters, 0.0f);
  if (dx && c.stride > 1)  // no window may reach the last pixels
    std::fill_n(dx, c.input(c.images, 0), 0.0f);
  for (int64_t g = 0; g < c.groups; ++g) {
    PointMatrices back = {};
    PointPanels weights = {};
    if (dx) {
      back = point_matrices(c, &buffers[2], most, c.channels);
      weights = transform_weights(c, w + g * c.weights(), true, &buffers[4], false);
    }
    for (int64_t image = 0; image < c.images; image += c.together()) {
      const int64_t last = std::min(c.images, image + c.together());
      const std::vector<Part> all = parts(c, image, last, kMostRows);
      transform_inputs(c, all, x, g, inputs);
      transform_output_gradients(c, all, dy, y, g, gradients, dbias + g * c.filters);
      multiply_at_points(c, last - image, {inputs.transposed(), gradient_panels, sums,
                                           padded(c.filters), padded(c.channels), true, image > 0});
      if (!dx) continue;
      multiply_at_points(c, last - image, {gradients, weights, back, padded(c.channels), c.filters,
                                           false, false});
      transform_input_gradients(c, parts(c, image, last, c.tiles(0)), back, g, dx);
    }
    transform_weight_gradients(c, sums, dw + g * c.weights());
  }
}

}  // namespace
