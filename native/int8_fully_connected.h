// _alexnet_int8_fully_connected: a fully connected layer of an int8 network, for inference. It
// takes uint8. With a `max_calib_range` it has a relu and makes uint8 (native/int8_convolution.h
// says what that means), without float32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common.h"
#include "int8_convolution.h"
#include "parallel.h"

namespace {

const int64_t kNear = 4096;  // bytes between weights in use and those that are fetched

struct Int8Layer {
  int64_t images, inputs;
  bool quantized;
  Int8Outputs outputs;
  int64_t blocks() const { return (outputs.filters + kFilters - 1) / kFilters; }
  Int8Product product() const { return {1, inputs / 4, 0, 0}; }
};

Int8Layer int8_layer_of(const Attributes& attrs, const Shape& x) {
  Int8Layer layer = {};
  layer.outputs.filters = read_integer(attrs, "num_hidden", 0, 0);
  layer.quantized = layer.outputs.relu = has(attrs, "max_calib_range");
  if (layer.quantized)
    layer.outputs.factor = read_factor(attrs, "max_calib_range", kUint8Range);
  layer.images = x.empty() ? 0 : x[0];
  layer.inputs = 1;
  for (size_t i = 1; i < x.size() && layer.inputs <= kLargest; ++i) layer.inputs *= x[i];
  if (x.size() < 2 || layer.inputs < 1 || layer.inputs > kLargest || layer.inputs % 4 ||
      layer.outputs.filters < 1)
    throw Refused("an int8 layer takes rows of a multiple of four values, and num_hidden, not " +
                  text_of(x));
  return layer;
}

Shape int8_layer_weights(const Int8Layer& layer) {
  return {layer.blocks(), layer.product().all_quads(), 4 * kFilters};
}

MXReturnValue int8_layer_counts(const Attributes& attrs, int* in, int* out) {
  *in = 4;
  *out = has(attrs, "max_calib_range") ? 3 : 1;
  return MX_SUCCESS;
}

MXReturnValue int8_layer_type(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  return reported([&] {
    if (in->at(0) != kUint8 && in->at(0) != kUnknownType)
      throw Refused("an int8 layer takes uint8");
    in->at(0) = kUint8;
    in->at(1) = kInt8;
    in->at(2) = in->at(3) = kFloat32;
    for (int& type : *out) type = kFloat32;
    if (out->size() > 1) out->at(0) = kUint8;
  });
}

void int8_layer_shape(const Attributes& attrs, std::vector<Shape>* in, std::vector<Shape>* out) {
  const Int8Layer layer = int8_layer_of(attrs, in->at(0));
  in->at(1) = int8_layer_weights(layer);
  in->at(2) = in->at(3) = {layer.outputs.filters};
  out->at(0) = {layer.images, layer.outputs.filters};
  for (size_t i = 1; i < out->size(); ++i) out->at(i) = {1};
}

// in: data, weights in blocks, scale and bias; out: data, and of uint8 the ends of its range
void int8_layer_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Int8Layer layer = int8_layer_of(attrs, in[0].shape);
  const int64_t filters = layer.outputs.filters;
  const float* const scale = floats(in[2], {filters}, "the scale");
  const float* const bias = floats(in[3], {filters}, "the bias");
  check_shape(in[1], int8_layer_weights(layer), "the weight");
  check_shape(out[0], {layer.images, filters}, "the output");
  const int8_t* const weights = in[1].data<int8_t>();
  const uint8_t* const x = in[0].data<uint8_t>();
  parallel_for(layer.blocks(), [&](int64_t block) {
    int32_t sums[kTileRows * kFilters];
    float buffer[kFilters] = {}, *const values = buffer;
    uint8_t bytes_of[kFilters], *const bytes = bytes_of;
    const uint8_t* places[kRows];
    const int64_t first = block * kFilters;
    Int8Outputs outputs = layer.outputs;
    outputs.filters = std::min(kFilters, filters - first);
    outputs.scale = scale + first;
    outputs.bias = bias + first;
    for (int64_t start = 0; start < layer.images; start += kRows) {
      const int64_t count = std::min(kRows, layer.images - start);
      for (int64_t i = 0; i < count; ++i) places[i] = x + (start + i) * layer.inputs;
      Int8Product product = layer.product();
      if (layer.images <= kRows)
        product.ahead = kNear;
      else if (start + count == layer.images && block + 1 < layer.blocks())
        product.ahead = product.weights();
      multiply_int8(product, places, count, weights + block * product.weights(), 1, sums,
                    kFilters);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = (start + i) * filters + first;
        dispatch<ValuesOfSums>(outputs, sums + i * kFilters, values);
        if (layer.quantized) {
          with_vector<QuantizeRow>(outputs, values, bytes);
          std::copy_n(bytes, outputs.filters, out[0].data<uint8_t>() + at);
        } else {
          std::copy_n(values, outputs.filters, out[0].data<float>() + at);
        }
      }
    }
  });
  if (!layer.quantized) return;
  *floats(out[1], {1}, "min") = 0;
  *floats(out[2], {1}, "max") = kUint8Range / layer.outputs.factor;
}

}  // namespace

REGISTER_OP(_alexnet_int8_fully_connected)
    .setParseAttrs(int8_layer_counts)
    .setInferType(int8_layer_type)
    .setInferShape(infer_shape<int8_layer_shape>)
    .setForward(compute<int8_layer_forward>, "cpu");
