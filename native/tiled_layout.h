// How tiled_convolution.h lays out maps, kernels and their values in memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "product.h"
#include "fourier_transforms.h"

namespace {

// Tiles whose values are in memory at a time, at least an image's. More of them read the weights'
// values less often, fewer stay in the cache. By Fourier's method each has more values.
const int64_t kTogether = 192, kTogetherByFourier = 96;
const int64_t kMostRows = 4;    // rows of tiles that a thread transforms at a time
const int64_t kMostRowsOfTile = 12;
const int kOfWeight = 24;  // multiplications that a value of a weight costs
const int64_t kMostElements = 25;  // of a kernel

// Tiles are large or small down and across. Values are ordered by kind, those of several images
// together, so that the tiles that have a pair of points are one behind the other for each pair.
const int kKinds = 4;
const bool kSmall[kKinds][2] = {{false, true}, {false, false}, {true, false}, {true, true}};

// A convolution with a 3x3 or 5x5 kernel and stride 1; or with a larger kernel and stride s, which
// is one with stride 1 over s * s times as many channels: for each place in a square of s * s
// pixels, a channel of the pixels at that place in all squares. The kernel is divided alike, with
// zeros where it does not reach.
struct Convolution {
  int64_t images, groups, channels, filters;  // channels (of stride 1) and filters: of a group
  int64_t in[2], pad[2], out[2];              // rows, columns; in and pad: of the array
  int64_t large[2], small[2];                 // tiles of a column, a row; small: the last, or none
  int most;                                   // points of a large tile; over 7 by Fourier's method
  int64_t side, kernel, stride;               // side: of the kernel with stride 1
  bool relu, of_bfloat16;                     // the latter: products
  int64_t maps() const { return channels / (stride * stride); }  // of the array, in a group
  int64_t weights() const { return filters * maps() * kernel * kernel; }  // of a group
  bool by_fourier() const { return most > kMostPoints; }
  // Multiplications of a channel and a filter; a shape may be beyond all memory, and all integers.
  double cost() const {
    const double down = most * large[0] + kFewPoints * small[0];
    const double across = most * large[1] + kFewPoints * small[1];
    const double of_image = by_fourier() ? 1.0 * tiles_of_image() * values() : down * across;
    return images * of_image + kOfWeight * values();
  }
  // Whether a tile of so many points is a whole map with its padding.
  bool is_map(int points) const {
    for (int i = 0; i < 2; ++i)
      if (stride > 1 || pad[i] != side / 2 || out[i] > outputs_of(points)) return false;
    return true;
  }
  // Fourier's method, with tiles of the size that takes fewer multiplications.
  void choose_fourier() {
    if (is_map(kPlacesOfMap)) return divide(kPlacesOfMap);
    divide(11);
    const double cost_of_11 = cost();
    divide(13);
    if (cost_of_11 < cost()) divide(11);
  }
  // The cheaper method; for a side of 3, whose tiles save less by Fourier's, Winograd's.
  void choose_method() {
    if (side == 3 && is_map(kPointsOfMap)) return divide(kPointsOfMap);
    choose_fourier();
    const int places = most;
    const double cost_by_fourier = cost();
    divide(kMostPoints);
    if (side == 5 && cost_by_fourier < cost()) divide(places);
  }
  // Divides the outputs of columns and rows among tiles.
  void divide(int points) {
    most = points;
    for (int i = 0; i < 2; ++i) {
      const int64_t outputs = outputs_of(most), left = out[i] % outputs;
      small[i] = most == kMostPoints && left > 0 && left <= outputs_of(kFewPoints);
      large[i] = out[i] / outputs + (left > 0 && !small[i]);
    }
  }
  int64_t outputs_of(int points) const { return outputs_of_tile(points, static_cast<int>(side)); }
  int points(int i) const { return large[i] ? most : kFewPoints; }
  int64_t values() const {
    return by_fourier() ? fourier_values(most) : points(0) * points(1);
  }
  int64_t tiles(int i) const { return large[i] + small[i]; }
  // Whether a tile's inputs include the padding; how many inputs more than outputs a window has.
  bool tiles_have_padding() const { return most != kPointsOfMap; }
  int64_t more_inputs() const { return tiles_have_padding() ? side - 1 : 0; }
  // The first output of a tile of a column or a row; also of the one after the last.
  int64_t start(int i, int64_t tile) const {
    const int64_t first = tile * outputs_of(most);
    return tile > large[i] ? first - outputs_of(most) + outputs_of(kFewPoints) : first;
  }
  // Where the array has a group's maps of an image, and a row of the output.
  int64_t input(int64_t image, int64_t group) const {
    return (image * groups + group) * maps() * in[0] * in[1];
  }
  int64_t output(int64_t image, int64_t group, int64_t filter, int64_t row) const {
    return (((image * groups + group) * filters + filter) * out[0] + row) * out[1];
  }
  int64_t tiles_of_kind(int kind) const {
    return (kSmall[kind][0] ? small[0] : large[0]) * (kSmall[kind][1] ? small[1] : large[1]);
  }
  int64_t tiles_before(int kind) const {  // in an image
    return kind ? tiles_before(kind - 1) + tiles_of_kind(kind - 1) : 0;
  }
  int64_t tiles_of_image() const { return tiles_before(kKinds); }
  int64_t together() const {  // images
    const int64_t most_tiles = by_fourier() ? kTogetherByFourier : kTogether;
    return std::min(images, in_blocks(most_tiles, tiles_of_image()));
  }
};

int64_t blocks(int64_t channels) { return in_blocks(channels, kLanes); }
int64_t padded(int64_t channels) { return blocks(channels) * kLanes; }

// A matrix for each pair of points, one after the other.
struct PointMatrices {
  View first;
  int64_t stride, across;  // from a matrix to the next; points in a row
  PointMatrices transposed() const { return {first.transposed(), stride, across}; }
  // What is at (row, column) at all pairs of points.
  View values(int64_t row, int64_t column) const {
    return {first.at(row, column), across * stride, stride};
  }
};

PointMatrices point_matrices(const Convolution& c, std::vector<float>* buffer, int64_t rows,
                             int64_t columns) {
  // An odd number of cache lines, or rows would share places in the cache.
  const int64_t row_stride = (blocks(columns) | 1) * kLanes;
  const int64_t stride = ((rows + kMostRowsOfTile) | 1) * row_stride;  // a product may write more
  return {{aligned(buffer, c.values() * stride), row_stride, 1}, stride, c.points(1)};
}

// Such matrices cut into panels, of columns that stay together.
struct PointPanels {
  float* data;
  int64_t stride, panel_stride, row_stride, width;  // from a matrix, panel, row to the next
  float* at(int64_t row, int64_t column) const {
    return data + column / width * panel_stride + row * row_stride + column % width;
  }
};

int64_t panel_width() { return std::max(kLanes, 2 * best_kernel().width); }
int64_t panels_of(int64_t columns) { return in_blocks(columns, panel_width()); }

// A window of 16 channels' maps with the channels innermost; it may reach beyond the maps. Rows and
// columns of inputs are counted with the padding, if the window has it.
struct Window {
  int64_t top, rows, columns;
  bool has_padding = true;
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

// Calls work(row, n) for the window's part of each row of the output; once for all rows if they are
// without gaps in both.
template <typename Work>
INLINED void for_each_row(const Convolution& c, const Window& w, Work work) {
  const int64_t bottom = std::min(c.out[0], w.top + w.rows);
  if (w.columns == c.out[1]) return work(w.top, (bottom - w.top) * w.columns);
  for (int64_t row = w.top; row < bottom; ++row) work(row, std::min(c.out[1], w.columns));
}

// Calls work(channel, row, column, n, map, stride) for the window's part of each row of every
// `step`-th of up to 16 channels of the input, from `first` on; `map` is where the array has the
// first of the n elements, `stride` how far apart they are, x the maps of an image and a group. All
// rows are one if they are without gaps in both and all channels are taken at once.
template <typename Float, typename Work>
INLINED void for_each_input_row(const Convolution& c, const Window& w, Float* x, int64_t first,
                                int64_t step, Work work) {
  const int64_t s = c.stride, bottom = w.top + w.rows;
  const int64_t pad[2] = {w.has_padding ? c.pad[0] : 0, w.has_padding ? c.pad[1] : 0};
  const bool whole_rows = s == 1 && pad[0] == 0 && pad[1] == 0 && w.columns == c.in[1];
  if (whole_rows && step == kLanes)
    return work(0, w.top, 0, (std::min(c.in[0], bottom) - w.top) * w.columns,
                x + (first * c.in[0] + w.top) * w.columns, s);
  const auto reach = [s](int64_t n) { return n > 0 ? (n + s - 1) / s : 0; };
  for (int64_t row = w.top; row < bottom; ++row)
    for (int64_t l = 0; l < std::min(kLanes, c.channels - first); l += step) {
      const int64_t map = (first + l) / (s * s), place = (first + l) % (s * s);
      const int64_t down = s * row + place / s - pad[0], right = place % s - pad[1];
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
  const int64_t s = c.stride, map = s > 1 ? channel / (s * s) : channel;  // divisions cost time
  const int64_t place = s > 1 ? channel % (s * s) : 0;
  const int64_t first = (filter * c.maps() + map) * c.kernel * c.kernel;
  for (int64_t i = 0, row = place / s; i < c.side && row < c.kernel; ++i, row += s)
    for (int64_t j = 0, column = place % s; j < c.side && column < c.kernel; ++j, column += s)
      work(i * c.side + j, first + row * c.kernel + column);
}

// Some rows of an image's tiles. place: the image's among those whose values are together.
struct Part {
  int64_t image, place, images, top, rows;
};

std::vector<Part> parts(const Convolution& c, int64_t first, int64_t last, int64_t most_rows) {
  std::vector<Part> found;
  for (int64_t image = first; image < last; ++image)
    for (int64_t top = 0; top < c.tiles(0); top += most_rows)
      found.push_back(
          {image, image - first, last - first, top, std::min(most_rows, c.tiles(0) - top)});
  return found;
}

// Calls work(part, first of 16 channels) for all, on all threads.
template <typename Work>
void for_each_part(const std::vector<Part>& all, int64_t channels, const Work& work) {
  const int64_t many = blocks(channels), count = static_cast<int64_t>(all.size());
  parallel_for(many * count, [&](int64_t task) { work(all[task / many], task % many * kLanes); });
}

Window& input_window(const Convolution& c, const Part& part) {
  const int64_t top = c.start(0, part.top), bottom = c.start(0, part.top + part.rows);
  Window& w = window(top, bottom - top + c.more_inputs(), c.start(1, c.tiles(1)) + c.more_inputs());
  w.has_padding = c.tiles_have_padding();
  return w;
}

Window& output_window(const Convolution& c, const Part& part) {
  const int64_t top = c.start(0, part.top), bottom = c.start(0, part.top + part.rows);
  return window(top, bottom - top, c.start(1, c.tiles(1)));
}

}  // namespace
