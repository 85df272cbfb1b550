// Convolutions of bfloat16, with float32 sums, and their gradients, by AMX (amx.h).
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

const int64_t kTogetherBytes = 1 << 24;  // of images over which a weight's gradient is summed

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
  for_each_input_row(c, all, x, first,
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

// A map of y's gradient, rounded; with a relu, only where y is above 0. sum: its sum.
struct PassGradient {
  static INLINED void run(const float* dy, const float* y, bool relu, int64_t size, float* to,
                          float* sum) {
    float sums[kLanes] = {};
    for (int64_t i = 0; i < size; ++i) {
      const float value = rounded(dy[i]);  // read in any case, or there would be a branch
      to[i] = relu && !(y[i] > 0) ? 0 : value;
    }
    for (int64_t first = 0; first < size; first += kLanes)
      for (int64_t l = 0; l < std::min(kLanes, size - first); ++l) sums[l] += to[first + l];
    *sum = 0;
    for (const float part : sums) *sum += part;
  }
};

// y's gradients in that way; dbias: their sums.
const float* output_gradients(const Convolution& c, const float* dy, const float* y,
                              std::vector<float>* buffer, float* dbias) {
  const int64_t maps = c.groups * c.filters, size = c.out[0] * c.out[1];
  buffer->resize(c.images * maps * (size + 1));
  float *const gradients = buffer->data(), *const sums = gradients + c.images * maps * size;
  parallel_for(c.images * maps, [&](int64_t map) {
    const int64_t at = map * size;
    dispatch<PassGradient>(dy + at, y + at, c.relu, size, gradients + at, sums + map);
  });
  std::fill_n(dbias, maps, 0.0f);
  for (int64_t map = 0; map < c.images * maps; ++map) dbias[map % maps] += sums[map];
  return gradients;
}

// Of one map in each row of `from`, `stride` from row to row, to one in each column: pairs of
// pixels stay together.
void transpose_pairs(const Pair* from, int64_t stride, int64_t maps, int64_t pairs,
                     Pair* to, int64_t to_stride) {
  for (int64_t first = 0; first < pairs; first += kTileRows)
    for (int64_t map = 0; map < maps; ++map)
      for (int64_t i = first; i < first + kTileRows; ++i)
        to[i * to_stride + map] = from[map * stride + i];
}

// A group's: for each element of the kernel, sums over all pixels of products of the inputs from
// that element on, and the outputs' gradients.
void differentiate_weights(const Convolution& c, const float* x, const float* dy, int64_t g,
                           float* dw) {
  static thread_local std::vector<float> buffers[4];
  Convolution outputs = c;  // the gradients' maps, whose rows are as wide as the inputs'
  outputs.stride = outputs.side = 1;
  outputs.channels = c.filters;
  outputs.in[0] = c.out[0];
  outputs.in[1] = c.out[1];
  outputs.pad[0] = outputs.pad[1] = 0;
  const Planes planes(c);
  const int64_t channel_blocks = in_blocks(c.channels, kBlock);
  const int64_t filter_blocks = in_blocks(c.filters, kBlock);
  const int64_t tasks = c.side * c.side * channel_blocks * filter_blocks;
  const int64_t plane = planes.stride(2 * kLine), pairs = planes.pixels / 2;
  const int64_t of_inputs = channel_blocks * kBlock * plane;
  const int64_t of_outputs = c.filters * plane;
  const int64_t filters = (2 * filter_blocks | 1) * kTileRows;  // in a row of pairs
  const int64_t together = std::min(
      c.images, std::max<int64_t>(1, kTogetherBytes / (2 * of_inputs + 4 * pairs * filters)));
  Bfloat16* const inputs = aligned_values<Bfloat16>(&buffers[0], together * of_inputs);
  Bfloat16* const maps = aligned_values<Bfloat16>(&buffers[1], together * of_outputs);
  Pair* const gradients = aligned_values<Pair>(&buffers[2], together * pairs * filters);
  float* const sums = aligned(&buffers[3], tasks * kBlock * kBlock);
  parallel_for(together, [&](int64_t i) {
    std::fill_n(inputs + i * of_inputs, of_inputs, Bfloat16());
    std::fill_n(maps + i * of_outputs, of_outputs, Bfloat16());
    std::fill_n(gradients + i * pairs * filters, pairs * filters, Pair());
  });
  std::vector<int64_t> a_at, b_at;
  for (int64_t image = 0; image < together; ++image)
    for (int64_t step = 0; step < planes.pixels / kStep; ++step) {
      a_at.push_back(2 * (image * of_inputs + step * kStep));
      b_at.push_back(4 * (image * pairs + step * kStep / 2) * filters);
    }
  BlockProduct product = {};
  product.a_at = a_at.data();
  product.b_at = b_at.data();
  product.a_row = 2 * plane;
  product.a_next = kTileRows * product.a_row;
  product.b_row = 4 * filters;
  product.b_next = 4 * kTileRows;
  for (int64_t first = 0; first < c.images; first += together) {
    const int64_t images = std::min(together, c.images - first);
    product.steps = images * planes.pixels / kStep;
    const int64_t parts = blocks(c.channels) + blocks(c.filters);  // of an image, of 16 maps
    parallel_for(images * parts, [&](int64_t task) {
      const int64_t i = task / parts, part = task % parts;
      if (part < blocks(c.channels)) {
        dispatch<FillMaps>(c, planes, x + c.input(first + i, g), part * kLanes,
                           inputs + i * of_inputs);
        return;
      }
      const int64_t f = (part - blocks(c.channels)) * kLanes;
      Bfloat16* const map = maps + i * of_outputs;
      dispatch<FillMaps>(outputs, planes, dy + c.output(first + i, g, 0, 0), f, map);
      transpose_pairs(reinterpret_cast<const Pair*>(map + f * plane), plane / 2,
                      std::min(kLanes, c.filters - f), pairs,
                      gradients + i * pairs * filters + f, filters);
    });
    split(tasks, [&](int64_t begin, int64_t end) {
      const AmxTiles tiles;
      BlockProduct part = product;
      float block[kBlock * kBlock] = {};
      for (int64_t task = begin; task < end; ++task) {
        const int64_t f = task % filter_blocks * kBlock, rest = task / filter_blocks;
        const int64_t channel = rest % channel_blocks * kBlock, element = rest / channel_blocks;
        part.a = inputs + channel * plane + planes.place(c, element);
        part.b = gradients + f;
        part.two_down = c.channels - channel > kTileRows;
        part.two_across = c.filters - f > kTileRows;
        multiply_block(part, block, kBlock);
        float* const to = sums + task * kBlock * kBlock;
        for (int64_t i = 0; i < kBlock * kBlock; ++i) to[i] = block[i] + (first ? to[i] : 0);
      }
    });
  }
  parallel_for(c.filters, [&](int64_t f) {
    for (int64_t channel = 0; channel < c.channels; ++channel)
      for_each_element(c, f, channel, [&](int64_t e, int64_t index) {
        const int64_t task = (e * channel_blocks + channel / kBlock) * filter_blocks + f / kBlock;
        dw[index] = sums[(task * kBlock + channel % kBlock) * kBlock + f % kBlock];
      });
  });
}

// dx may be null, if x's gradients are not wanted; a convolution with a stride has none.
void differentiate_in_tiles(const Convolution& c, const float* dy, const float* x, const float* w,
                            const float* y, float* dx, float* dw, float* dbias) {
  static thread_local std::vector<float> buffers[2];
  const float* const gradients = output_gradients(c, dy, y, &buffers[0], dbias);
  Convolution back = c;  // of the gradients with the kernels turned round
  back.channels = c.filters;
  back.filters = c.channels;
  back.relu = false;
  for (int i = 0; i < 2; ++i) {
    back.in[i] = c.out[i];
    back.out[i] = c.in[i];
    back.pad[i] = c.side - 1 - c.pad[i];
  }
  for (int64_t g = 0; g < c.groups; ++g) {
    differentiate_weights(c, x, gradients, g, dw + g * c.weights());
    if (dx)
      multiply_maps(back, gradients, arrange_weights(c, w + g * c.weights(), true, &buffers[1],
                                                     false), nullptr, g, dx);
  }
}

}  // namespace
