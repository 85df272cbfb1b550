// The weights of tiled_convolution.h and their gradients: to points, products, to kernels again.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lanes.h"
#include "tiled_layout.h"
#include "tiled_products.h"

namespace {

// Between a kernel of 16 channels, its elements one after the other, and its values at the points.
void transform_kernel(const Convolution& c, Step::Kind step, float* kernel, const View& values) {
  transform({step, c.side, {c.points(0), c.points(1)}, 1, 1,
             {kernel, c.side * kLanes, kLanes}, values, 0});
}

// A group's weights with a channel in each row and a filter in each column, or the other way round.
struct WeightMatrix {
  const float* data;
  int64_t rows, columns, row_stride, column_stride;
  bool filters_in_rows;
};

WeightMatrix weight_matrix(const Convolution& c, const float* w, bool filters_in_rows) {
  // From one to the next.
  const int64_t channel = c.kernel * c.kernel, filter = c.maps() * channel;
  if (filters_in_rows) return {w, c.filters, c.channels, filter, channel, true};
  return {w, c.channels, c.filters, channel, filter, false};
}

// How many rows ahead the places of values, and weights, are fetched.
const int64_t kRowsAhead = 4, kWeightsAhead = 8;

// Of 16 columns from `first` on, if they are one behind the other: into the second-level cache,
// since more of them are on their way at a time than the first can wait for.
void fetch_kernels(const WeightMatrix& w, int64_t row, int64_t first) {
  if (!w.filters_in_rows || row >= w.rows) return;
  const float* const from = w.data + row * w.row_stride + first * w.column_stride;
  for (int64_t i = 0; i < kLanes * w.column_stride; i += kLine) __builtin_prefetch(from + i, 0, 2);
}

// To points: 16 columns from `first` on.
void transform_columns(const Convolution& c, const WeightMatrix& w, int64_t first,
                       const PointPanels& panels) {
  const int64_t many = std::min(kLanes, w.columns - first);
  for (int64_t row = 0; row < w.rows; ++row) {
    float kernel[kMostElements * kLanes];
    if (many < kLanes || c.stride > 1) std::fill_n(kernel, kMostElements * kLanes, 0.0f);
    if (c.stride == 1) {
      const float* const from = w.data + row * w.row_stride + first * w.column_stride;
      fetch_kernels(w, row + kWeightsAhead, first);
      const PlainRows<const float> rows = {from, w.column_stride};
      rows_to_lanes(rows, many, c.kernel * c.kernel, kernel);
    } else {
      for (int64_t l = 0; l < many; ++l) {
        const int64_t filter = w.filters_in_rows ? row : first + l;
        for_each_element(c, filter, w.filters_in_rows ? first + l : row,
                         [&](int64_t e, int64_t index) { kernel[e * kLanes + l] = w.data[index]; });
      }
    }
    const View values = {panels.at(row, first), c.points(1) * panels.stride, panels.stride};
    if (row + kRowsAhead < w.rows)
      for (int64_t pair = 0; pair < c.values(); ++pair)
        __builtin_prefetch(panels.at(row + kRowsAhead, first) + pair * panels.stride, 1);
    transform_kernel(c, Step::kWeights, kernel, values);
  }
}

// To points, in `buffer`: all weights. known: it has them already.
PointPanels transform_weights(const Convolution& c, const WeightMatrix& w,
                              std::vector<float>* buffer, bool known) {
  const int64_t width = panel_width();
  // Not a multiple of a page, or all points would share places in the cache.
  const int64_t size = panels_of(w.columns) * width * w.rows + kLanes;
  const PointPanels panels = {aligned(buffer, c.values() * size), size, w.rows * width, width,
                              width};
  if (!known)
    parallel_for(blocks(w.columns), [&](int64_t block) {
      transform_columns(c, w, block * kLanes, panels);
    });
  return panels;
}

// Whether to take columns of values at the points a panel at a time, which then stays in the cache.
// That needs the values of all images' tiles in memory at once, and is slower than all panels
// together where some thread would have none.
bool goes_by_panels(const Convolution& c, int64_t columns) {
  return c.images <= c.together() && panels_of(columns) >= threads();
}

const int64_t kMostOfPanel = 384 << 10;  // values: 1.5 MB

// The same of the weights' values, where a panel stays in the cache: larger ones were slower.
bool weights_go_by_panels(const Convolution& c, const WeightMatrix& w) {
  return goes_by_panels(c, w.columns) && c.values() * w.rows * panel_width() <= kMostOfPanel;
}

// a times the weights' values. values: of all weights; without data each panel is computed where it
// is multiplied.
void multiply_by_weights(const Convolution& c, int64_t images, const PointMatrices& a,
                         const WeightMatrix& w, const PointPanels& values,
                         const PointMatrices& products) {
  PointProducts all = {a, values, products, padded(w.columns), w.rows, false, false, 0};
  if (values.data) return multiply_at_points(c, images, all);
  const int64_t width = panel_width(), size = w.rows * width + kLanes;
  parallel_for(panels_of(w.columns), [&](int64_t panel) {
    static thread_local std::vector<float> buffer;
    PointProducts of_panel = all;
    of_panel.b = {aligned(&buffer, c.values() * size), size, 0, width, width};
    const int64_t left = panel * width, right = std::min(w.columns, left + width);
    for (int64_t first = left; first < right; first += kLanes)
      transform_columns(c, w, first, of_panel.b);
    multiply_panel_at_points(c, of_panel, left);
  });
}

// The weights' values at the points, and the weights that they were computed of. Which points they
// are at depends on the sizes of the maps and on how many images there are.
struct KeptWeights {
  bool constant = false;  // the weights: they are neither copied nor compared
  bool known = false;
  int64_t points[2];
  std::vector<float> weights;
  std::vector<std::vector<float>> values;  // of each group
  // Compares all, since neither an address nor MXNet's count of versions tells whether weights have
  // changed: MXNet hands over a copy of those that it has in a layout of its own.
  bool are_of(const Convolution& c, const float* w) const {
    const int64_t count = c.groups * c.weights();
    if (!known || points[0] != c.points(0) || points[1] != c.points(1)) return false;
    if (constant) return true;
    if (static_cast<int64_t>(weights.size()) != count) return false;
    std::atomic<bool> same(true);
    split(count, [&](int64_t first, int64_t last) {
      if (std::memcmp(&weights[first], w + first, (last - first) * sizeof(float))) same = false;
    });
    return same;
  }
  void forget(const Convolution& c) {
    known = false;
    values.assign(c.groups, std::vector<float>());
    points[0] = c.points(0);
    points[1] = c.points(1);
  }
  void keep(const Convolution& c, const float* w) {
    if (!constant) weights.assign(w, w + c.groups * c.weights());
    known = true;
  }
};

// To kernels: the gradients of the weights of a channel and of 16 filters from `first` on, of which
// sums has the values at the column `first` - `left`.
void transform_weight_gradients(const Convolution& c, const PointMatrices& sums, int64_t left,
                                int64_t first, int64_t channel, float* dw) {
  const int64_t many = std::min(kLanes, c.filters - first), elements = c.kernel * c.kernel;
  float kernel[kMostElements * kLanes];
  transform_kernel(c, Step::kWeightGradients, kernel, sums.values(channel, first - left));
  if (c.stride == 1) {
    float* const to = dw + (first * c.channels + channel) * elements;
    return lanes_to_rows(kernel, many, elements, PlainRows<float>{to, c.channels * elements});
  }
  for (int64_t l = 0; l < many; ++l)
    for_each_element(c, first + l, channel, [&](int64_t e, int64_t index) {
      dw[index] = kernel[e * kLanes + l];
    });
}

// The sums over all tiles.
void differentiate_weights_by_panels(const Convolution& c, const PointMatrices& inputs,
                                     const PointPanels& gradients, float* dw) {
  const int64_t width = panel_width();
  parallel_for(panels_of(c.filters), [&](int64_t panel) {
    static thread_local std::vector<float> buffer;
    const int64_t stride = ((padded(c.channels) + kMostRowsOfTile) | 1) * width;
    const PointMatrices sums = {{aligned(&buffer, c.values() * stride), width, 1}, stride,
                                c.points(1)};
    const int64_t left = panel * width, right = std::min(c.filters, left + width);
    multiply_panel_at_points(c, {inputs.transposed(), gradients, sums, padded(c.filters),
                                 padded(c.channels), true, false, left}, left);
    for (int64_t first = left; first < right; first += kLanes)
      for (int64_t channel = 0; channel < c.channels; ++channel)
        transform_weight_gradients(c, sums, left, first, channel, dw);
  });
}

}  // namespace
