// The gradients of convolutions of bfloat16, with float32 sums, by AMX: the inputs' are a
// convolution of the outputs' with the kernels turned round (bfloat16_convolution.h), the weights'
// sums over all pixels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bfloat16_convolution.h"

namespace {

const int64_t kTogetherBytes = 1 << 24;  // of images over which a weight's gradient is summed

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
  float* const gradients = aligned(buffer, c.images * maps * (size + 1));
  float* const sums = gradients + c.images * maps * size;
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
