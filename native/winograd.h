// Convolution of (N, C, H, W) arrays by Winograd's method, and its gradients.
//
// The values at the points of all channels of many tiles are a matrix for each of the 49 pairs of
// points, with a tile in each row; those of the weights have a channel in each row and a filter in
// each column. Threads share each step, and no sum depends on how many they are.
#ifndef NATIVE_WINOGRAD_H_
#define NATIVE_WINOGRAD_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "winograd_transforms.h"

namespace {

const int64_t kTogether = 192;  // tiles whose values are in memory at a time; at least an image's
const int64_t kMostRows = 4;    // rows of tiles that a thread transforms at a time
const int64_t kMostRowsOfTile = 12;
const int64_t kMostElements = 25;  // of a kernel

struct Convolution {  // with stride 1 and a 3x3 or 5x5 kernel
  int64_t images, groups, channels, filters;  // channels and filters: of a group
  int64_t in[2], pad[2], out[2], tiles[2];    // rows, columns
  int64_t side;
  bool relu;
  int64_t elements() const { return side * side; }  // of a kernel
  int64_t weights() const { return filters * channels * elements(); }  // of a group
  int64_t tile() const { return outputs_of_tile(static_cast<int>(side)); }
  int64_t tiles_of_image() const { return tiles[0] * tiles[1]; }
  int64_t together() const {  // images
    return std::min(images, (kTogether + tiles_of_image() - 1) / tiles_of_image());
  }
};

int64_t blocks(int64_t channels) { return (channels + kLanes - 1) / kLanes; }
int64_t padded(int64_t channels) { return blocks(channels) * kLanes; }

// A matrix for each pair of points, one after the other.
struct Matrices {
  float* data;
  int64_t size, down, right;  // from a row to the next, from a column to the next
  Matrices transposed() const { return {data, size, right, down}; }
};

Matrices matrices(std::vector<float>* buffer, int64_t rows, int64_t columns) {
  // An odd number of cache lines, or rows would share places in the cache.
  const int64_t down = (blocks(columns) | 1) * kLanes;
  const int64_t size = (rows + kMostRowsOfTile) * down;  // a product may write more rows
  return {aligned(buffer, kValues * size), size, down, 1};
}

// Such matrices cut into panels, which are as wide as a tile of a product.
struct Panels {
  float* data;
  int64_t size, next, down, width;  // next: from a panel to the next
  float* at(int64_t row, int64_t column) const {
    return data + column / width * next + row * down + column % width;
  }
};

int64_t panel_width() { return std::max(kLanes, 2 * best_kernel().width); }

// c = a b, or c += a b, for each pair of points; depth: rows of b.
void multiply(const Matrices& a, int64_t rows, const Panels& b, int64_t columns, int64_t depth,
              const Matrices& c, bool add) {
  const Kernel& kernel = best_kernel();
  const int64_t third = kernel.rows / 3, panels = (columns + b.width - 1) / b.width;
#pragma omp parallel for schedule(static)
  for (int64_t task = 0; task < kValues * panels; ++task) {
    const int64_t value = task / panels, left = task % panels * b.width;
    const int64_t right = std::min(columns, left + b.width);
    Tile tile = {};
    tile.a_down = a.down;
    tile.a_right = a.right;
    tile.b_down = b.down;
    tile.c_down = c.down;
    tile.depth = depth;
    tile.add = add;
    tile.next_down = 0;  // what comes next follows: the processor fetches it by itself
    for (int64_t row = 0; row < rows; row += kernel.rows)
      for (int64_t column = left; column < right; column += 2 * kernel.width) {
        const int64_t height = std::min(kernel.rows, rows - row);
        const int64_t vectors = std::min<int64_t>(2, (right - column) / kernel.width);
        tile.a = a.data + value * a.size + row * a.down;
        tile.b = tile.next = b.data + value * b.size + (b.at(0, column) - b.data);
        tile.c = c.data + value * c.size + row * c.down + column;
        kernel.compute(tile, (height + third - 1) / third, static_cast<int>(vectors));
      }
  }
}

// (channels, rows, columns) of an array, or what is to become that.
template <typename Float>
struct Maps {
  Float* data;
  int64_t channels, rows, columns;
  Float* at(int64_t channel, int64_t row) const {
    return data + (channel * rows + row) * columns;
  }
};

// A window of 16 channels' maps with the channels innermost; it may reach beyond them.
struct Window {
  int64_t top, left, rows, columns;
  std::vector<float> buffer;
  float* data;
  int64_t down() const { return columns * kLanes; }
  float* at(int64_t row, int64_t column) const {  // of the map
    return data + (row - top) * down() + (column - left) * kLanes;
  }
};

// The calling thread's, full of zeros.
Window& window(int64_t top, int64_t left, int64_t rows, int64_t columns) {
  static thread_local Window w;
  w.top = top;
  w.left = left;
  w.rows = rows;
  w.columns = columns;
  w.data = aligned(&w.buffer, rows * w.down());
  std::fill_n(w.data, rows * w.down(), 0.0f);
  return w;
}

// Calls work(channel, row, column, n) for the window's part of each row of up to 16 channels.
template <typename Float, typename Work>
INLINED void each_row(const Window& w, const Maps<Float>& maps, int64_t channels, Work work) {
  const int64_t left = std::max<int64_t>(0, w.left), top = std::max<int64_t>(0, w.top);
  const int64_t n = std::min(maps.columns, w.left + w.columns) - left;
  const int64_t bottom = std::min(maps.rows, w.top + w.rows);
  for (int64_t l = 0; l < std::min(kLanes, channels); ++l)
    for (int64_t row = top; row < bottom; ++row) work(l, row, left, n);
}

// Some rows of an image's tiles.
struct Part {
  int64_t image, top, rows;
  int64_t at;  // its first tile's row in the matrices
};

std::vector<Part> parts(const Convolution& c, int64_t first, int64_t last, int64_t most_rows) {
  std::vector<Part> found;
  int64_t at = 0;
  for (int64_t image = first; image < last; ++image)
    for (int64_t top = 0; top < c.tiles[0]; top += most_rows) {
      found.push_back({image, top, std::min(most_rows, c.tiles[0] - top), at});
      at += found.back().rows * c.tiles[1];
    }
  return found;
}

// Calls work(part, first of 16 channels) for all, on all threads.
template <typename Work>
void share(const std::vector<Part>& all, int64_t channels, Work work) {
  const int64_t many = blocks(channels), count = static_cast<int64_t>(all.size());
#pragma omp parallel for schedule(static)
  for (int64_t task = 0; task < many * count; ++task)
    work(all[task / many], task % many * kLanes);
}

Window& input_window(const Convolution& c, const Part& part) {
  return window(part.top * c.tile() - c.pad[0], -c.pad[1], part.rows * c.tile() + c.side - 1,
                c.tiles[1] * c.tile() + c.side - 1);
}

Window& output_window(const Convolution& c, const Part& part) {
  return window(part.top * c.tile(), 0, part.rows * c.tile(), c.tiles[1] * c.tile());
}

void transform_part(const Convolution& c, Step::Kind kind, const Part& part, const Window& w,
                    const Matrices& values, int64_t channel) {
  run({kind, c.side, part.rows * c.tiles[1], c.tiles[1], w.data, w.down(),
       values.data + part.at * values.down + channel, values.size, values.down});
}

// x's maps of group g -> values
void transform_inputs(const Convolution& c, const std::vector<Part>& all, const float* x,
                      int64_t g, const Matrices& values) {
  share(all, c.channels, [&](const Part& part, int64_t first) {
    const Maps<const float> maps = {x, c.groups * c.channels, c.in[0], c.in[1]};
    const int64_t at = part.image * maps.channels + g * c.channels + first;
    const Window& map = input_window(c, part);
    each_row(map, maps, c.channels - first, [&](int64_t l, int64_t row, int64_t column, int64_t n) {
      const float* from = maps.at(at + l, row) + column;
      float* to = map.at(row, column) + l;
      for (int64_t i = 0; i < n; ++i) to[i * kLanes] = from[i];
    });
    transform_part(c, Step::kInputs, part, map, values, first);
  });
}

// Weights at the points. The kernel of `row` and `lane`, a column, is at their distances.
Panels transform_weights(const Convolution& c, const float* w, int64_t rows, int64_t row_distance,
                         int64_t lanes, int64_t lane_distance) {
  static thread_local std::vector<float> buffer;
  const int64_t width = panel_width();
  const int64_t size = (lanes + width - 1) / width * width * rows;
  const Panels panels = {aligned(&buffer, kValues * size), size, rows * width, width, width};
#pragma omp parallel for schedule(static)
  for (int64_t first = 0; first < lanes; first += kLanes) {
    float kernel[kMostElements * kLanes] = {};
    const int64_t many = std::min(kLanes, lanes - first);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t l = 0; l < many; ++l)
        for (int64_t e = 0; e < c.elements(); ++e)
          kernel[e * kLanes + l] = w[row * row_distance + (first + l) * lane_distance + e];
      run({Step::kWeights, c.side, 1, 1, kernel, c.side * kLanes, panels.at(row, first), size, 0});
    }
  }
  return panels;
}

void forward(const Convolution& c, const float* x, const float* w, const float* bias, float* y) {
  static thread_local std::vector<float> buffers[2];
  const int64_t most = c.together() * c.tiles_of_image();
  const float least = c.relu ? 0 : -std::numeric_limits<float>::infinity();
  const Matrices inputs = matrices(&buffers[0], most, c.channels);
  const Matrices outputs = matrices(&buffers[1], most, c.filters);
  const Maps<float> maps = {y, c.groups * c.filters, c.out[0], c.out[1]};
  for (int64_t g = 0; g < c.groups; ++g) {
    const Panels weights = transform_weights(c, w + g * c.weights(), c.channels, c.elements(),
                                             c.filters, c.channels * c.elements());
    for (int64_t image = 0; image < c.images; image += c.together()) {
      const int64_t last = std::min(c.images, image + c.together());
      const std::vector<Part> all = parts(c, image, last, kMostRows);
      transform_inputs(c, all, x, g, inputs);
      multiply(inputs, (last - image) * c.tiles_of_image(), weights, padded(c.filters),
               c.channels, outputs, false);
      share(all, c.filters, [&](const Part& part, int64_t first) {
        const int64_t filter = g * c.filters + first, at = part.image * maps.channels + filter;
        const Window& map = output_window(c, part);
        transform_part(c, Step::kOutputs, part, map, outputs, first);
        each_row(map, maps, c.filters - first, [&](int64_t l, int64_t row, int64_t, int64_t n) {
          const float* from = map.at(row, 0) + l;
          float* to = maps.at(at + l, row);
          for (int64_t i = 0; i < n; ++i) {
            const float value = from[i * kLanes] + bias[filter + l];
            to[i] = value < least ? least : value;  // not a number stays that
          }
        });
      });
    }
  }
}

// y's gradient, where y is above 0 if there is a relu -> values, and its sums over the parts
void transform_gradients(const Convolution& c, const std::vector<Part>& all, const float* dy,
                         const float* y, int64_t g, const Matrices& values, float* dbias) {
  static thread_local std::vector<float> buffer;
  buffer.assign(all.size() * padded(c.filters), 0.0f);
  std::vector<float>& sums = buffer;  // `buffer` would be each thread's own in what they share
  share(all, c.filters, [&](const Part& part, int64_t first) {
    const Maps<const float> maps = {dy, c.groups * c.filters, c.out[0], c.out[1]};
    const int64_t at = part.image * maps.channels + g * c.filters + first;
    const Window& map = output_window(c, part);
    each_row(map, maps, c.filters - first, [&](int64_t l, int64_t row, int64_t, int64_t n) {
      const float* from = maps.at(at + l, row);
      const float* on = y + (from - dy);
      float* to = map.at(row, 0) + l;
      for (int64_t i = 0; i < n; ++i) to[i * kLanes] = !c.relu || on[i] > 0 ? from[i] : 0;
    });
    float* const sum = &sums[(&part - &all[0]) * padded(c.filters) + first];
    for (int64_t i = 0; i < map.rows * map.columns; ++i)
      for (int64_t l = 0; l < kLanes; ++l) sum[l] += map.data[i * kLanes + l];
    transform_part(c, Step::kOutputGradients, part, map, values, first);
  });
  for (size_t p = 0; p < all.size(); ++p)
    for (int64_t k = 0; k < c.filters; ++k) dbias[k] += sums[p * padded(c.filters) + k];
}

void backward(const Convolution& c, const float* dy, const float* x, const float* w,
              const float* y, float* dx, float* dw, float* dbias) {
  static thread_local std::vector<float> buffers[4];
  const int64_t most = c.together() * c.tiles_of_image();
  const int64_t width = panel_width();
  const Matrices inputs = matrices(&buffers[0], most, c.channels);
  const Matrices gradients = matrices(&buffers[1], most, c.filters);
  const Matrices back = matrices(&buffers[2], most, c.channels);
  const Matrices sums = matrices(&buffers[3], padded(c.channels), c.filters);
  const Maps<float> maps = {dx, c.groups * c.channels, c.in[0], c.in[1]};
  std::fill_n(dbias, c.groups * c.filters, 0.0f);
  for (int64_t g = 0; g < c.groups; ++g) {
    float* const group_dw = dw + g * c.weights();
    const Panels weights = transform_weights(c, w + g * c.weights(), c.filters,
                                             c.channels * c.elements(), c.channels, c.elements());
    for (int64_t image = 0; image < c.images; image += c.together()) {
      const int64_t last = std::min(c.images, image + c.together());
      const int64_t tiles = (last - image) * c.tiles_of_image();
      const std::vector<Part> all = parts(c, image, last, kMostRows);
      transform_inputs(c, all, x, g, inputs);
      transform_gradients(c, all, dy, y, g, gradients, dbias + g * c.filters);
      multiply(inputs.transposed(), padded(c.channels),
               {gradients.data, gradients.size, width, gradients.down, width},
               padded(c.filters), tiles, sums, image > 0);
      multiply(gradients, tiles, weights, padded(c.channels), c.filters, back, false);
      // Windows of neighbouring tiles overlap, and are added: a whole image's at a time.
      share(parts(c, image, last, c.tiles[0]), c.channels, [&](const Part& part, int64_t first) {
        const int64_t at = part.image * maps.channels + g * c.channels + first;
        const Window& map = input_window(c, part);
        transform_part(c, Step::kInputGradients, part, map, back, first);
        each_row(map, maps, c.channels - first,
                 [&](int64_t l, int64_t row, int64_t column, int64_t n) {
                   const float* from = map.at(row, column) + l;
                   float* to = maps.at(at + l, row) + column;
                   for (int64_t i = 0; i < n; ++i) to[i] = from[i * kLanes];
                 });
      });
    }
#pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < blocks(c.filters) * c.channels; ++task) {
      const int64_t first = task / c.channels * kLanes, channel = task % c.channels;
      float kernel[kMostElements * kLanes];
      run({Step::kWeightGradients, c.side, 1, 1, kernel, c.side * kLanes,
           sums.data + channel * sums.down + first, sums.size, 0});
      for (int64_t l = 0; l < std::min(kLanes, c.filters - first); ++l)
        for (int64_t e = 0; e < c.elements(); ++e)
          group_dw[((first + l) * c.channels + channel) * c.elements() + e] =
              kernel[e * kLanes + l];
    }
  }
}

}  // namespace

#endif  // NATIVE_WINOGRAD_H_
