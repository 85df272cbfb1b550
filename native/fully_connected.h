// _alexnet_fully_connected: y = x w^T + bias of (N, ...) arrays, each image flattened, and its
// gradients. For inference `weights` may be int8, which stand for themselves times `scale`, or
// bfloat16. With those, or dtype=bfloat16, products are of bfloat16, and sums of float32. With
// by_inputs=1, for inference with one image, w is transposed: a row has an input's weights.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bfloat16_layer.h"
#include "common.h"
#include "few_images.h"
#include "matrix_product.h"
#include "narrow_weights.h"
#include "one_image.h"
#include "sparse_product.h"

namespace {

// `count` of a row of narrow weights, from `column` on. a: of their words.
template <typename Weights>
void widen_row(const View& a, int64_t row, int64_t column, int64_t count, float* to) {
  const float* const words = a.at(row, column / Weights::kOfWord);
  with_vector<Widen<Weights>>(reinterpret_cast<const int32_t*>(words), count, to);
}

struct Layer {
  int64_t images, inputs, outputs;
  int weights_of_word;
  float scale;  // of int8 weights
  bool of_bfloat16;  // products
  bool by_inputs;
  int64_t row() const {  // of weights: it may end with zeros
    if (weights_of_word == 1 && !by_inputs) return inputs;
    return in_blocks(by_inputs ? outputs : inputs, kUnit) * kUnit;
  }
  Shape output() const { return {images, outputs}; }
  Shape weight() const {  // an array of int32 holds pairs of bfloat16
    return {by_inputs ? inputs : outputs,
            weights_of_word == Bfloat16Weights::kOfWord ? row() / 2 : row()};
  }
  int weight_type() const {
    if (weights_of_word == Bfloat16Weights::kOfWord) return kInt32;
    return weights_of_word == ByteWeights::kOfWord ? kInt8 : kFloat32;
  }
};

int read_weights_of_word(const Attributes& attrs) {
  const std::string type = has(attrs, "weights") ? attrs.at("weights") : "float32";
  if (type == "float32") return FloatWeights::kOfWord;
  if (type == "bfloat16") return Bfloat16Weights::kOfWord;
  if (type != "int8") refuse_value(attrs, "weights");
  return ByteWeights::kOfWord;
}

Layer layer_of(const Attributes& attrs, const Shape& x) {
  Layer layer;
  layer.outputs = read_integer(attrs, "num_hidden", 0, 0);
  layer.weights_of_word = read_weights_of_word(attrs);
  const bool bytes = layer.weights_of_word == ByteWeights::kOfWord;
  layer.of_bfloat16 = read_bfloat16(attrs) || layer.weights_of_word == Bfloat16Weights::kOfWord;
  if (bytes && layer.of_bfloat16) throw Refused("weights=int8 is not for dtype=bfloat16");
  layer.by_inputs = read_integer(attrs, "by_inputs", 0, 0) == 1;
  if (layer.by_inputs && layer.of_bfloat16 && layer.weights_of_word == FloatWeights::kOfWord)
    throw Refused("by_inputs=1 with dtype=bfloat16 needs weights=bfloat16");
  layer.scale = bytes ? static_cast<float>(read_number(attrs, "scale", 1)) : 1;
  if (layer.outputs < 1 || x.size() < 2)
    throw Refused("_alexnet_fully_connected needs num_hidden of at least 1, and (N, ...) data");
  layer.images = x[0];
  layer.inputs = 1;
  for (size_t i = 1; i < x.size(); ++i) {
    layer.inputs *= x[i];
    if (layer.inputs > kLargest)
      throw Refused("_alexnet_fully_connected: an image of " + text_of(x) + " has too many values");
  }
  return layer;
}

void fully_connected_shape(const Attributes& attrs, std::vector<Shape>* in,
                           std::vector<Shape>* out) {
  const Layer layer = layer_of(attrs, in->at(0));
  in->at(1) = layer.weight();
  in->at(2) = {layer.outputs};
  out->at(0) = layer.output();
}

MXReturnValue fully_connected_types(const Attributes& attrs, std::vector<int>* in,
                                    std::vector<int>* out) {
  return reported([&] {
    Layer layer;
    layer.weights_of_word = read_weights_of_word(attrs);
    infer_types({kFloat32, layer.weight_type(), kFloat32}, in, out);
  });
}

// Adds the product of images with many zeros and w to y, or returns false.
bool add_sparse(const Layer& layer, float* x, float* w, float* y) {
  Product product;  // y += x w^T
  product.a = {x, layer.inputs, 1};
  product.b = {w, 1, layer.inputs};
  product.c = {y, layer.outputs, 1};
  product.rows = layer.images;
  product.columns = layer.outputs;
  product.depth = layer.inputs;
  product.add = true;
  product.weights = kRight;
  product.block_depth = 192;
  product.block_columns = 1;  // one panel
  product.round = layer.of_bfloat16;
  return multiply_sparse(product);
}

const int64_t kBlockOfImages = 65536;  // values of a block of images: 256 KB

// The product of all images with w: in tiles, unless they have many zeros and there is no AVX-512.
template <typename Weights>
void multiply_many_images(const Layer& layer, float* x, float* w, const float* bias, float* y) {
  for (int64_t i = 0; i < layer.images; ++i)
    std::copy_n(bias, layer.outputs, y + i * layer.outputs);
  // Without zeros weights have to be copied in columns, which takes longer than AVX-512's tiles.
  if (Weights::kOfWord == 1 && kVariant != kAvx512 && add_sparse(layer, x, w, y)) return;
  Product product;  // y^T += w x^T
  product.a = {w, layer.row() / Weights::kOfWord, 1};
  product.b = {x, 1, layer.row()};
  product.c = {y, 1, layer.outputs};
  product.rows = layer.outputs;
  product.columns = layer.images;
  product.depth = layer.row();
  product.add = true;
  product.weights = kLeft;
  product.block_columns = 128;
  product.block_depth = kBlockOfImages / std::max<int64_t>(32, layer.images) / kUnit * kUnit;
  product.block_depth = std::max<int64_t>(1024, product.block_depth);
  product.of_word = Weights::kOfWord;
  product.widen = widen_row<Weights>;
  product.round = layer.of_bfloat16;
  multiply_matrices(product);
}

// x is to be like the rows of w, whose words are floats here.
template <typename Weights>
void multiply_images(const Layer& layer, float* x, float* w, const float* bias, float* y) {
  const bool to_be_rounded = layer.of_bfloat16 && Weights::kOfWord == 1;
  if (layer.images > kFewImages || to_be_rounded)
    return multiply_many_images<Weights>(layer, x, w, bias, y);
  multiply_few_images<Weights>({reinterpret_cast<const int32_t*>(w), x, bias, y, layer.images,
                                layer.row(), layer.outputs});
}

// By AMX, as far as it has what the layer needs.
bool multiply_by_amx(const Layer& layer, const float* x, const float* w, const float* bias,
                     float* y) {
  const bool plain = layer.weights_of_word == FloatWeights::kOfWord;
  if (!kAmx || !layer.of_bfloat16 || (!plain && layer.images <= kFewImages)) return false;
  if (plain)
    multiply_in_tiles(layer.images, layer.inputs, layer.outputs, layer.row(), x, w, bias, y);
  else
    multiply_in_tiles(layer.images, layer.inputs, layer.outputs, layer.row(), x,
                      reinterpret_cast<const Bfloat16*>(w), bias, y);
  return true;
}

template <typename Weights>
void multiply_by_inputs(const Layer& layer, const float* x, const float* w, const float* bias,
                        float* y) {
  static thread_local OneImage image;
  image.w = reinterpret_cast<const int32_t*>(w);
  image.row = layer.row() / Weights::kOfWord;
  for (int64_t i = 0; i < layer.images; ++i) {
    take_image(x + i * layer.inputs, layer.inputs, layer.of_bfloat16, &image);
    multiply_one_image<Weights>(image, layer.outputs, layer.scale, bias, y + i * layer.outputs);
  }
}

// x as the rows of w are: in the order of narrow weights, with zeros at the end.
float* arrange_images(const Layer& layer, float* x) {
  static thread_local std::vector<float> buffer;
  float* const arranged = aligned(&buffer, layer.images * layer.row());
  for (int64_t i = 0; i < layer.images; ++i)
    arrange(x + i * layer.inputs, layer.inputs, layer.row(), layer.scale, layer.weights_of_word,
            arranged + i * layer.row());
  if (layer.of_bfloat16) dispatch<RoundRow>(arranged, layer.images * layer.row(), arranged);
  return arranged;
}

template <typename Weights>
void multiply_layer(const Layer& layer, float* x, float* w, const float* bias, float* y) {
  if (layer.by_inputs) return multiply_by_inputs<Weights>(layer, x, w, bias, y);
  if (multiply_by_amx(layer, x, w, bias, y)) return;
  if (Weights::kOfWord > 1) x = arrange_images(layer, x);
  multiply_images<Weights>(layer, x, w, bias, y);
}

// in: x, w, bias
void fully_connected_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Layer layer = layer_of(attrs, in[0].shape);
  float* const x = floats(in[0], Shape(in[0].shape), "the input");
  const float* const bias = floats(in[2], {layer.outputs}, "the bias");
  float* const y = floats(out[0], layer.output(), "the output");
  if (in[1].shape != layer.weight() || in[1].dtype != layer.weight_type())
    throw Refused("the weight has to be of shape " + text_of(layer.weight()) +
                  " and of the type that `weights` says, not " + text_of(in[1].shape));
  float* const w = static_cast<float*>(in[1].data_ptr);
  if (layer.weights_of_word == ByteWeights::kOfWord)
    multiply_layer<ByteWeights>(layer, x, w, bias, y);
  else if (layer.weights_of_word == Bfloat16Weights::kOfWord)
    multiply_layer<Bfloat16Weights>(layer, x, w, bias, y);
  else
    multiply_layer<FloatWeights>(layer, x, w, bias, y);
}

void differentiate_weight(const Layer& layer, float* g, float* x, float* dw) {
  Product product;  // dw = g^T x
  product.a = {g, 1, layer.outputs};
  product.b = {x, layer.inputs, 1};
  product.c = {dw, layer.inputs, 1};
  product.rows = layer.outputs;
  product.columns = layer.inputs;
  product.depth = layer.images;
  product.add = false;
  product.weights = kNeither;
  product.round = layer.of_bfloat16;
  product.block_depth = 128;
  product.block_columns = 1024;
  if (!multiply_sparse(product)) multiply_matrices(product);
}

void differentiate_input(const Layer& layer, float* g, float* w, float* dx) {
  Product product;  // dx = g w
  product.a = {g, layer.outputs, 1};
  product.b = {w, layer.inputs, 1};
  product.c = {dx, layer.inputs, 1};
  product.rows = layer.images;
  product.columns = layer.inputs;
  product.depth = layer.outputs;
  product.add = false;
  product.weights = kRight;
  product.round = layer.of_bfloat16;
  product.block_depth = 64;
  product.block_columns = 1024;
  if (!multiply_sparse(product)) multiply_matrices(product);
}

// in: y's gradient, x, w, bias, y; out: the gradients of x, w and bias
void fully_connected_backward(const Attributes& attrs, Tensors& in, Tensors& out) {
  const Shape shape = in[1].shape;
  const Layer layer = layer_of(attrs, shape);
  if (layer.by_inputs) throw Refused("by_inputs=1 is for inference");
  float* const g = floats(in[0], layer.output(), "the output's gradient");
  float* const x = floats(in[1], shape, "the input");
  float* const w = floats(in[2], layer.weight(), "the weight");
  float* const dx = floats(out[0], shape, "the input's gradient");
  float* const dw = floats(out[1], layer.weight(), "the weight's gradient");
  float* const dbias = floats(out[2], {layer.outputs}, "the bias's gradient");
  split(layer.outputs, [&](int64_t first, int64_t last) {
    std::fill_n(dbias + first, last - first, 0.0f);
    for (int64_t i = 0; i < layer.images; ++i)
      for (int64_t o = first; o < last; ++o) {
        const float value = g[i * layer.outputs + o];
        dbias[o] += layer.of_bfloat16 ? rounded(value) : value;
      }
  });
  if (layer.of_bfloat16 && kAmx) {
    differentiate_weight_in_tiles(layer.images, layer.inputs, layer.outputs, g, x, dw);
    differentiate_input_in_tiles(layer.images, layer.inputs, layer.outputs, g, w, dx);
    return;
  }
  differentiate_weight(layer, g, x, dw);
  differentiate_input(layer, g, w, dx);
}

}  // namespace

REGISTER_OP(_alexnet_fully_connected)
    .setParseAttrs(counts<3, 1>)
    .setInferType(fully_connected_types)
    .setInferShape(infer_shape<fully_connected_shape>)
    .setForward(compute<fully_connected_forward>, "cpu")
    .setBackward(compute<fully_connected_backward>, "cpu");
