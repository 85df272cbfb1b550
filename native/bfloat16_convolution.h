// Convolutions of bfloat16, with float32 sums, by AMX (amx.h); bfloat16_gradients.h has their
// gradients.
//
// Maps are padded, one row behind the other. So an element of the kernel multiplies a whole map,
// from the place of that element on; a row's last sums reach into the next row, and are dropped.
// The kernels and layouts of tiled_convolution.h's Convolution stay, and no sum depends on how many
// threads there are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "amx.h"
#include "bfloat16.h"
#include "tiled_convolution.h"

namespace {

// A group's padded maps of an image.
struct Planes {
  int64_t width;   // of a row
  int64_t pixels;  // for which there are sums, in whole blocks
  int64_t reach;   // pixels that these read
  explicit Planes(const Convolution& c)
      : width(c.out[1] + c.side - 1),
        pixels(in_blocks(c.out[0] * width, kBlock) * kBlock),
        reach(pixels + (c.side - 1) * (width + 1)) {}
  // From a map to the next, in whole cache lines; an odd number, or maps would share places there.
  int64_t stride(int64_t of_line) const { return (in_blocks(reach, of_line) | 1) * of_line; }
  int64_t place(const Convolution& c, int64_t element) const {
    return element / c.side * width + element % c.side;
  }
};

// Calls work(channel, place, n, map, stride) for what the padded maps of up to 16 channels have of
// each row.
template <typename Work>
INLINED void for_each_padded_row(const Convolution& c, const Planes& planes, const float* x,
                                 int64_t first, Work work) {
  Window all;
  all.top = 0;
  all.rows = c.out[0] + c.side - 1;
  all.columns = planes.width;
  for_each_input_row(c, all, x, first, 1,
                     [&](int64_t l, int64_t row, int64_t column, int64_t n, const float* from,
                         int64_t stride) INLINED_LAMBDA {
                       work(first + l, row * planes.width + column, n, from, stride);
                     });
}

// The maps of up to 16 channels in pairs of channels; the padding stays as it is.
struct FillPairs {
  static INLINED void run(const Convolution& c, const Planes& planes, const float* x, int64_t first,
                          Pair* to) {
    const int64_t plane = planes.stride(kLine), next = c.in[0] * c.in[1];
    for_each_padded_row(c, planes, x, first, [&](int64_t channel, int64_t place, int64_t n,
                                                 const float* from, int64_t s) INLINED_LAMBDA {
      Pair* const pairs = to + channel / 2 * plane + place;
      const bool first_of_two = channel % 2 == 0 && channel + 1 < c.channels;
      if (s == 1 && first_of_two) {
        PairRows::run(from, from + next, n, pairs);
      } else if (s == 1 && channel % 2 == 0) {
        for (int64_t i = 0; i < n; ++i) pairs[i] = bfloat16(from[i]);
      } else if (s % 2 == 0 && c.pad[1] % 2 == 0) {  // pairs of neighbouring pixels
        const int64_t pixel = place % planes.width * s + channel % s - c.pad[1];
        const int64_t left = c.in[1] - 1 - pixel;  // neighbours on the right
        const int64_t many = channel % 2 ? 0 : n, two = std::min(many, (left + s - 1) / s);
        for (int64_t i = 0; i < two; ++i)
          pairs[i] = rounded_bits(from[i * s]) >> 16 | rounded_bits(from[i * s + 1]);
        for (int64_t i = two; i < many; ++i) pairs[i] = bfloat16(from[i * s]);
      } else if (s > 1) {
        Bfloat16* const halves = reinterpret_cast<Bfloat16*>(pairs) + channel % 2;
        for (int64_t i = 0; i < n; ++i) halves[2 * i] = bfloat16(from[i * s]);
      }
    });
  }
};

// The maps of up to 16 channels one by one; the padding stays as it is.
struct FillMaps {
  static INLINED void run(const Convolution& c, const Planes& planes, const float* x, int64_t first,
                          Bfloat16* to) {
    const int64_t plane = planes.stride(2 * kLine);
    for_each_padded_row(c, planes, x, first, [&](int64_t channel, int64_t place, int64_t n,
                                                 const float* from, int64_t s) INLINED_LAMBDA {
      Bfloat16* const row = to + channel * plane + place;
      if (s == 1) return NarrowRow::run(from, n, row);
      for (int64_t i = 0; i < n; ++i) row[i] = bfloat16(from[i * s]);
    });
  }
};

// A map of a filter, of rows of sums that are `width` apart.
struct FinishMap {
  static INLINED void run(const Convolution& c, const float* sums, int64_t width, float bias,
                          float* to) {
    const float least = c.relu ? 0 : -std::numeric_limits<float>::infinity();
    for (int64_t row = 0; row < c.out[0]; ++row)
      for (int64_t i = 0; i < c.out[1]; ++i) {
        const float value = sums[row * width + i] + bias;
        to[row * c.out[1] + i] = value < least ? least : value;  // NaN stays NaN
      }
  }
};

// A group's weights, in tiles with a filter in each row. backward: a channel in each row, and the
// kernels turned round, as the inputs' gradients take them.
const Bfloat16* arrange_weights(const Convolution& c, const float* w, bool backward,
                                std::vector<float>* buffer, bool known) {
  const int64_t rows = backward ? c.channels : c.filters;
  const int64_t depth = backward ? c.filters : c.channels;
  const int64_t of_depth = in_blocks(depth, kStep), elements = c.side * c.side;
  const int64_t size = elements * of_depth * kBlock * kStep;  // of a block of rows
  Bfloat16* const to = aligned_values<Bfloat16>(buffer, in_blocks(rows, kBlock) * size);
  if (known) return to;
  parallel_for(in_blocks(rows, kBlock), [&](int64_t block) {
    std::fill_n(to + block * size, size, Bfloat16());
    for (int64_t row = block * kBlock; row < std::min(rows, (block + 1) * kBlock); ++row)
      for (int64_t d = 0; d < depth; ++d) {
        Bfloat16* const first = to + block * size + d / kStep * kBlock * kStep +
                                row % kBlock * kStep + d % kStep;
        for_each_element(c, backward ? d : row, backward ? row : d, [&](int64_t e, int64_t index) {
          const int64_t element = backward ? elements - 1 - e : e;
          first[element * of_depth * kBlock * kStep] = bfloat16(w[index]);
        });
      }
  });
  return to;
}

// The maps of a group's filters in all images. bias: null, or the group's.
void multiply_maps(const Convolution& c, const float* x, const Bfloat16* weights,
                   const float* bias, int64_t g, float* y) {
  static thread_local std::vector<float> buffers[2];
  const Planes planes(c);
  const int64_t of_depth = in_blocks(c.channels, kStep), steps = c.side * c.side * of_depth;
  const int64_t plane = planes.stride(kLine), size = of_depth * kStep / 2 * plane;
  const int64_t row_blocks = in_blocks(c.filters, kBlock);
  std::vector<int64_t> a_at, b_at;
  for (int64_t step = 0; step < steps; ++step) {
    a_at.push_back(step * 2 * kTileBytes);
    b_at.push_back((step % of_depth * (kStep / 2) * plane + planes.place(c, step / of_depth)) * 4);
  }
  BlockProduct product = {};
  product.a_at = a_at.data();
  product.b_at = b_at.data();
  product.steps = steps;
  product.a_row = 2 * kStep;
  product.a_next = kTileBytes;
  product.b_row = 4 * plane;
  product.b_next = 4 * kTileRows;
  product.two_across = true;
  split(c.images * row_blocks, [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    Pair* const pairs = aligned_values<Pair>(&buffers[0], size);
    float* const sums = aligned(&buffers[1], kBlock * planes.pixels);
    std::fill_n(pairs, size, Pair());
    const AmxTiles tiles;
    BlockProduct part = product;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / row_blocks, first = task % row_blocks * kBlock;
      const int64_t rows = std::min(kBlock, c.filters - first);
      for (int64_t channel = 0; channel < c.channels && (task == begin || first == 0);
           channel += kLanes)
        dispatch<FillPairs>(c, planes, x + c.input(image, g), channel, pairs);
      part.a = weights + first * steps * kStep;
      part.two_down = rows > kTileRows;
      for (int64_t pixel = 0; pixel < planes.pixels; pixel += kBlock) {
        part.b = pairs + pixel;
        multiply_block(part, sums + pixel, planes.pixels);
      }
      for (int64_t f = 0; f < rows; ++f)
        dispatch<FinishMap>(c, sums + f * planes.pixels, planes.width,
                            bias ? bias[first + f] : 0.0f, y + c.output(image, g, first + f, 0));
    }
  });
}

// kept, known: as convolve's.
void convolve_in_tiles(const Convolution& c, const float* x, const float* w, const float* bias,
                       float* y, KeptWeights* kept, bool known) {
  static thread_local std::vector<float> buffer;
  for (int64_t g = 0; g < c.groups; ++g) {
    const Bfloat16* const weights = arrange_weights(
        c, w + g * c.weights(), false, kept ? &kept->values[g] : &buffer, known);
    multiply_maps(c, x, weights, bias + g * c.filters, g, y);
  }
}

}  // namespace
