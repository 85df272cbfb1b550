// _alexnet_int8_lrn: dequantize, LRN, max pooling if asked for, and quantize_v2 in one pass.
// Between MXNet's int8 layers the four move five arrays through memory, most of them float32.
//
// As MXNet's MKL-DNN operators have it, an integer q of an array whose range is from `min` to `max`
// means q r / n, with r the larger of their magnitudes, and n 255.5 for uint8 and 127.5 for int8.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "common.h"
#include "lrn.h"
#include "variants.h"

namespace {

const float kUint8Range = 255.5f, kInt8Range = 127.5f;
const int64_t kInt8Channels = 16;  // dequantized at a time, with their neighbours: 240 KB for conv1

struct Dequantize {
  template <typename T>
  static INLINED void run(const T* q, int64_t count, float step, float* x) {
    for (int64_t i = 0; i < count; ++i) x[i] = step * q[i];
  }
};

struct Quantize {
  static INLINED void run(const float* y, int64_t count, float factor, uint8_t* q) {
    int32_t nearest[kTile];  // apart, both loops are vector instructions
    for (int64_t start = 0; start < count; start += kTile) {
      const int64_t width = std::min(kTile, count - start);
      for (int64_t i = 0; i < width; ++i) {
        const float value = factor * y[start + i], above = value > 0 ? value : 0;
        nearest[i] = static_cast<int32_t>((above < 255 ? above : 255) + 0.5f);
      }
      for (int64_t i = 0; i < width; ++i) q[start + i] = static_cast<uint8_t>(nearest[i]);
    }
  }
};

// q -> out, which are multiples of `step` and of 1 / `factor`.
template <typename T>
void int8_lrn(const Lrn& lrn, const T* q, float step, float factor, uint8_t* out) {
  const int64_t size = (kInt8Channels + 2 * lrn.half) * lrn.plane;
  for_each_range_of_channels(lrn, [&](int64_t image, int64_t first, int64_t last) {
    static thread_local std::vector<float> buffer;
    buffer.resize(size + kInt8Channels * lrn.out_plane);
    float *const x = buffer.data(), *const y = x + size;
    for (int64_t c = first; c < last; c += kInt8Channels) {
      const int64_t end = std::min(last, c + kInt8Channels);
      const int64_t low = std::max<int64_t>(0, c - lrn.half);
      const int64_t high = std::min(lrn.channels, end + lrn.half);
      const int64_t at = image * lrn.channels;
      dispatch<Dequantize>(q + (at + low) * lrn.plane, (high - low) * lrn.plane, step, x);
      forward_channels(lrn, x - low * lrn.plane, c, end, y - c * lrn.out_plane);
      dispatch<Quantize>(y, (end - c) * lrn.out_plane, factor, out + (at + c) * lrn.out_plane);
    }
  });
}

// The high end of the output's range, which begins at 0.
float read_range(const Attributes& attrs) {
  const double min = read_number(attrs, "min_calib_range", -1);
  const float max = static_cast<float>(read_number(attrs, "max_calib_range", 0));
  if (!(min >= 0 && max > 0))
    throw Refused("_alexnet_int8_lrn needs a range: 0 <= min_calib_range, 0 < max_calib_range");
  return max;
}

MXReturnValue int8_lrn_type(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  return reported([&] {
    if (in->at(0) != kUint8 && in->at(0) != kInt8 && in->at(0) != kUnknownType)
      throw Refused("_alexnet_int8_lrn takes uint8 or int8");
    in->at(1) = in->at(2) = out->at(1) = out->at(2) = kFloat32;
    out->at(0) = kUint8;
  });
}

void int8_lrn_shape(const Attributes& attrs, std::vector<Shape>* in, std::vector<Shape>* out) {
  lrn_shape(attrs, in, out);
  in->at(1) = in->at(2) = out->at(1) = out->at(2) = {1};
}

// in: data, and the ends of its range; out: the same
void int8_lrn_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Lrn lrn = lrn_of(attrs, in[0].shape);
  const float low = *floats(in[1], {1}, "min"), high = *floats(in[2], {1}, "max");
  const float magnitude = std::max(std::fabs(low), std::fabs(high));
  const float out_high = read_range(attrs), factor = kUint8Range / out_high;
  uint8_t* const y = out[0].data<uint8_t>();
  if (in[0].dtype == kInt8)
    int8_lrn(lrn, in[0].data<int8_t>(), magnitude / kInt8Range, factor, y);
  else
    int8_lrn(lrn, in[0].data<uint8_t>(), magnitude / kUint8Range, factor, y);
  *floats(out[1], {1}, "min") = 0;
  *floats(out[2], {1}, "max") = out_high;
}

}  // namespace

REGISTER_OP(_alexnet_int8_lrn)
    .setParseAttrs(counts<3, 3>)
    .setInferType(int8_lrn_type)
    .setInferShape(infer_shape<int8_lrn_shape>)
    .setForward(compute<int8_lrn_forward>, "cpu");
