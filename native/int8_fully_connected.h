// _alexnet_int8_fully_connected: a fully connected layer of an int8 network, for inference. It
// takes uint8. With a `max_calib_range` it has a relu and makes uint8 (native/int8_outputs.h
// says what that means), without float32. With by_inputs=1, for one image, the weights of an input
// lie side by side.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common.h"
#include "int8_one_image.h"
#include "int8_outputs.h"
#include "int8_product.h"
#include "parallel.h"

namespace {

const int64_t kNear = 4096;  // bytes between weights in use and those that are fetched

struct Int8Layer {
  int64_t images, inputs;
  bool by_inputs, quantized;
  Int8Outputs outputs;
  int64_t blocks() const { return in_blocks(outputs.filters, kFilters); }
  Int8Product product() const { return {1, inputs / 4, 0, 0}; }
  int64_t row() const {  // of an input's weights
    return in_blocks(outputs.filters, kUnitOfInput) * kUnitOfInput;
  }
};

Int8Layer int8_layer_of(const Attributes& attrs, const Shape& x) {
  Int8Layer layer = {};
  layer.outputs.filters = read_integer(attrs, "num_hidden", 0, 0);
  layer.by_inputs = read_integer(attrs, "by_inputs", 0, 0) == 1;
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
  if (layer.by_inputs) return {layer.inputs, layer.row()};
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

// An image's sums of up to kFilters filters from `first` on -> outputs.
void write_outputs(const Int8Layer& layer, const int32_t* sums, int64_t image, int64_t first,
                   MXTensor& out) {
  float buffer[kFilters] = {}, *const values = buffer;
  uint8_t quantized[kFilters], *const bytes = quantized;
  Int8Outputs part = layer.outputs;
  part.filters = std::min(kFilters, layer.outputs.filters - first);
  part.scale += first;
  part.bias += first;
  dispatch<ValuesOfSums>(part, sums, values);
  const int64_t at = image * layer.outputs.filters + first;
  if (layer.quantized) {
    with_vector<QuantizeRow>(part, values, bytes);
    std::copy_n(bytes, part.filters, out.data<uint8_t>() + at);
  } else {
    std::copy_n(values, part.filters, out.data<float>() + at);
  }
}

// Weights of a block of filters stay in the cache for all images.
void multiply_int8_blocks(const Int8Layer& layer, const uint8_t* x, const int8_t* w,
                          MXTensor& out) {
  parallel_for(layer.blocks(), [&](int64_t block) {
    int32_t sums[kBlock * kFilters];
    const uint8_t* places[kBlock];
    const int64_t together = kAmx ? kBlock : kRows;
    Int8Product product = layer.product();
    for (int64_t start = 0; start < layer.images; start += together) {
      const int64_t count = std::min(together, layer.images - start);
      for (int64_t i = 0; i < count; ++i) places[i] = x + (start + i) * layer.inputs;
      if (layer.images <= together)
        product.ahead = kNear;
      else if (start + count == layer.images && block + 1 < layer.blocks())
        product.ahead = product.weights();
      multiply_int8(product, places, count, w + block * product.weights(), 1, sums, kFilters);
      for (int64_t i = 0; i < count; ++i)
        write_outputs(layer, sums + i * kFilters, start + i, block * kFilters, out);
    }
  });
}

// One image after the other; MXNet may give a device one more than it was bound for.
void multiply_int8_inputs(const Int8Layer& layer, const uint8_t* x, const int8_t* w,
                          MXTensor& out) {
  for (int64_t image = 0; image < layer.images; ++image) {
    const NonZeroInputs inputs(x + image * layer.inputs, layer.inputs, w, layer.row());
    split(layer.row() / kUnitOfInput, [&](int64_t first, int64_t last) {
      static thread_local std::vector<int32_t> sums;
      const int64_t start = first * kUnitOfInput, end = last * kUnitOfInput;
      sums.assign(end - start, 0);
      add_int8_inputs(inputs, start, end, sums.data());
      for (int64_t f = start; f < std::min(end, layer.outputs.filters); f += kFilters) {
        int32_t block[kFilters];
        for (int64_t i = 0; i < kFilters; ++i) block[i] = sums[place_of_sum(f - start + i)];
        write_outputs(layer, block, image, f, out);
      }
    });
  }
}

// in: data, weights in blocks or by inputs, scale and bias; out: data, and of uint8 the ends of its
// range
void int8_layer_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  Int8Layer layer = int8_layer_of(attrs, in[0].shape);
  layer.outputs.scale = floats(in[2], {layer.outputs.filters}, "the scale");
  layer.outputs.bias = floats(in[3], {layer.outputs.filters}, "the bias");
  check_shape(in[1], int8_layer_weights(layer), "the weight");
  check_shape(out[0], {layer.images, layer.outputs.filters}, "the output");
  const auto multiply = layer.by_inputs ? multiply_int8_inputs : multiply_int8_blocks;
  multiply(layer, in[0].data<uint8_t>(), in[1].data<int8_t>(), out[0]);
  if (layer.quantized) write_range(layer.outputs, out);
}

}  // namespace

REGISTER_OP(_alexnet_int8_fully_connected)
    .setParseAttrs(int8_layer_counts)
    .setInferType(int8_layer_type)
    .setInferShape(infer_shape<int8_layer_shape>)
    .setForward(compute<int8_layer_forward>, "cpu");
