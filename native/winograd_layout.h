// How winograd.h lays out maps, kernels and their values at the points in memory, and the products
// of the values.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "product.h"
#include "winograd_transforms.h"

namespace {

const int64_t kTogether = 192;  // tiles whose values are in memory at a time; at least an image's
const int64_t kMostRows = 4;    // rows of tiles that a thread transforms at a time
const int64_t kMostRowsOfTile = 12;
const int64_t kMostElements = 25;  // of a kernel

// A convolution with a 3x3 or 5x5 kernel and stride 1; or with a larger kernel and stride s, which
// is one with stride 1 over s * s times as many channels: for each place in a square of s * s
// pixels, a channel of the pixels at that place in all squares. The kernel is divided alike, with
// zeros where it does not reach.
struct Convolution {
  int64_t images, groups, channels, filters;  // channels (of stride 1) and filters: of a group
  int64_t in[2], pad[2], out[2], tiles[2];    // rows, columns; in and pad: of the array
  int64_t side, kernel, stride;               // side: of the kernel with stride 1
  bool relu;
  int64_t maps() const { return channels / (stride * stride); }  // of the array, in a group
  int64_t weights() const { return filters * maps() * kernel * kernel; }  // of a group
  int64_t tile() const { return outputs_of_tile(static_cast<int>(side)); }
  // Where the array has a group's maps of an image, and a row of the output.
  int64_t input(int64_t image, int64_t group) const {
    return (image * groups + group) * maps() * in[0] * in[1];
  }
  int64_t output(int64_t image, int64_t group, int64_t filter, int64_t row) const {
    return (((image * groups + group) * filters + filter) * out[0] + row) * out[1];
  }
  int64_t tiles_of_image() const { return tiles[0] * tiles[1]; }
  int64_t together() const {  // images
    return std::min(images, (kTogether + tiles_of_image() - 1) / tiles_of_image());
  }
};

int64_t blocks(int64_t channels) { return (channels + kLanes - 1) / kLanes; }
int64_t padded(int64_t channels) { return blocks(channels) * kLanes; }

// A matrix for each pair of points, one after the other.
struct PointMatrices {
  View first;
  int64_t stride;  // from a matrix to the next
  PointMatrices transposed() const { return {first.transposed(), stride}; }
  // What is at (row, column) at all points, as Step wants it: further rows below each other.
  View values(int64_t row, int64_t column) const {
    return {first.at(row, column), first.row_stride, stride};
  }
};

PointMatrices point_matrices(std::vector<float>* buffer, int64_t rows, int64_t columns) {
  // An odd number of cache lines, or rows would share places in the cache.
  const int64_t row_stride = (blocks(columns) | 1) * kLanes;
  const int64_t stride = (rows + kMostRowsOfTile) * row_stride;  // a product may write more rows
  return {{aligned(buffer, kValues * stride), row_stride, 1}, stride};
}

// Such matrices cut into panels, which are as wide as a tile of a product.
struct PointPanels {
  float* data;
  int64_t stride, panel_stride, row_stride, width;  // from a matrix, panel, row to the next
  float* at(int64_t row, int64_t column) const {
    return data + column / width * panel_stride + row * row_stride + column % width;
  }
};

int64_t panel_width() { return std::max(kLanes, 2 * best_kernel().width); }

// c = a b, or c += a b, for each pair of points; depth: rows of b.
void multiply_at_points(const PointMatrices& a, int64_t rows, const PointPanels& b,
                        int64_t columns, int64_t depth, const PointMatrices& c, bool add) {
  const Kernel& kernel = best_kernel();
  const int64_t third = kernel.rows / 3, panels = (columns + b.width - 1) / b.width;
  parallel_for(kValues * panels, [&](int64_t task) {
    const int64_t point = task / panels, left = task % panels * b.width;
    const int64_t right = std::min(columns, left + b.width);
    Tile tile = {};
    tile.a_row_stride = a.first.row_stride;
    tile.a_column_stride = a.first.column_stride;
    tile.b_row_stride = b.row_stride;
    tile.c_row_stride = c.first.row_stride;
    tile.depth = depth;
    tile.add = add;
    tile.next_row_stride = 0;  // what comes next follows: the processor prefetches it by itself
    for (int64_t row = 0; row < rows; row += kernel.rows)
      for (int64_t column = left; column < right; column += 2 * kernel.width) {
        const int64_t height = std::min(kernel.rows, rows - row);
        const int64_t vectors = std::min<int64_t>(2, (right - column) / kernel.width);
        tile.a = a.first.at(row, 0) + point * a.stride;
        tile.b = tile.next = b.at(0, column) + point * b.stride;
        tile.c = c.first.at(row, column) + point * c.stride;
        kernel.multiply_tile(tile, (height + third - 1) / third, static_cast<int>(vectors));
      }
  });
}

// A window of 16 channels' maps with the channels innermost; it may reach beyond the maps. Rows and
// columns of inputs are counted with the padding.
struct Window {
  int64_t top, rows, columns;
  std::vector<float> buffer;
  View elements;  // each of 16 channels
  float* at(int64_t row, int64_t column) const { return elements.at(row - top, column); }
};

// The calling thread's window, filled with zeros.
Window& window(int64_t top, int64_t rows, int64_t columns) {
  static thread_local Window w;
  w.top = top;
  w.rows = rows;
  w.columns = columns;
  w.elements = {aligned(&w.buffer, rows * columns * kLanes), columns * kLanes, kLanes};
  std::fill_n(w.elements.data, rows * columns * kLanes, 0.0f);
  return w;
}

// Calls work(channel, row, n) for the window's part of each row of up to 16 channels of the output:
// row by row, so that what all channels have in a row of the window stays in the cache.
template <typename Work>
INLINED void for_each_row(const Convolution& c, const Window& w, int64_t first, Work work) {
  const int64_t bottom = std::min(c.out[0], w.top + w.rows);
  for (int64_t row = w.top; row < bottom; ++row)
    for (int64_t l = 0; l < std::min(kLanes, c.filters - first); ++l)
      work(l, row, std::min(c.out[1], w.columns));
}

// Calls work(channel, row, column, n, map, stride) for the window's part of each row of up to 16
// channels of the input from the channel `first` on; `map` is where the array has the first of the
// n elements, and `stride` how far apart they are. x: the array's maps of an image and a group.
template <typename Float, typename Work>
INLINED void for_each_input_row(const Convolution& c, const Window& w, Float* x, int64_t first,
                                Work work) {
  const int64_t s = c.stride, bottom = w.top + w.rows;
  const auto reach = [s](int64_t n) { return n > 0 ? (n + s - 1) / s : 0; };
  for (int64_t row = w.top; row < bottom; ++row)
    for (int64_t l = 0; l < std::min(kLanes, c.channels - first); ++l) {
      const int64_t map = (first + l) / (s * s), place = (first + l) % (s * s);
      const int64_t down = s * row + place / s - c.pad[0], right = place % s - c.pad[1];
      if (down < 0 || down >= c.in[0]) continue;
      const int64_t left = reach(-right);
      const int64_t n = std::min(w.columns, reach(c.in[1] - right)) - left;
      work(l, row, left, n, x + (map * c.in[0] + down) * c.in[1] + s * left + right, s);
    }
}

// Calls work(element, index) for the elements of a kernel with stride 1 that the kernel of
// (filter, channel) reaches; index: in a group's weights.
template <typename Work>
INLINED void for_each_element(const Convolution& c, int64_t filter, int64_t channel, Work work) {
  const int64_t s = c.stride, map = channel / (s * s), place = channel % (s * s);
  const int64_t first = (filter * c.maps() + map) * c.kernel * c.kernel;
  for (int64_t i = 0, row = place / s; i < c.side && row < c.kernel; ++i, row += s)
    for (int64_t j = 0, column = place % s; j < c.side && column < c.kernel; ++j, column += s)
      work(i * c.side + j, first + row * c.kernel + column);
}

// Some rows of an image's tiles.
struct Part {
  int64_t image, top, rows;
  int64_t first_tile;  // its row in the matrices
};

std::vector<Part> parts(const Convolution& c, int64_t first, int64_t last, int64_t most_rows) {
  std::vector<Part> found;
  int64_t tile = 0;
  for (int64_t image = first; image < last; ++image)
    for (int64_t top = 0; top < c.tiles[0]; top += most_rows) {
      found.push_back({image, top, std::min(most_rows, c.tiles[0] - top), tile});
      tile += found.back().rows * c.tiles[1];
    }
  return found;
}

// Calls work(part, first of 16 channels) for all, on all threads.
template <typename Work>
void for_each_part(const std::vector<Part>& all, int64_t channels, const Work& work) {
  const int64_t many = blocks(channels), count = static_cast<int64_t>(all.size());
  parallel_for(many * count, [&](int64_t task) { work(all[task / many], task % many * kLanes); });
}

Window& input_window(const Convolution& c, const Part& part) {
  return window(part.top * c.tile(), part.rows * c.tile() + c.side - 1,
                c.tiles[1] * c.tile() + c.side - 1);
}

Window& output_window(const Convolution& c, const Part& part) {
  return window(part.top * c.tile(), part.rows * c.tile(), c.tiles[1] * c.tile());
}

}  // namespace
