// _alexnet_fully_connected: y = x w^T + bias of (N, ...) arrays, each image flattened, and its
// gradients.
//
// All are matrix products. The weights are nearly all of the memory, and each is used only N times:
// those that come next are fetched while a tile is computed.
#ifndef NATIVE_FULLY_CONNECTED_H_
#define NATIVE_FULLY_CONNECTED_H_

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common.h"
#include "product.h"

namespace {

struct Matrix {
  float* data;
  int64_t down, right;  // from a row to the next, from a column to the next
  float* at(int64_t row, int64_t column) const { return data + row * down + column * right; }
};

enum Weights { kLeft, kRight, kNeither };

struct Product {  // c = a b
  Matrix a, b, c;
  int64_t rows, columns, depth;
  bool add;            // c += a b
  Weights weights;     // which matrix is the large one that is read
  int64_t deep, wide;  // the block of b that is to stay in the cache
};

struct Block {
  int64_t left, right, top, depth;  // columns and rows of b
  int vectors;                      // the width of its panels
  const float* panels;
};

// Rows [top, top + depth) and columns [first, first + width) of b without gaps; 0 up to `columns`.
void pack_panel(const Matrix& b, int64_t top, int64_t depth, int64_t first, int64_t width,
                int64_t columns, float* to) {
  if (width < columns) std::fill_n(to, depth * columns, 0.0f);
  if (b.right == 1) {
    for (int64_t p = 0; p < depth; ++p) std::copy_n(b.at(top + p, first), width, to + p * columns);
  } else {
    for (int64_t i = 0; i < width; ++i)
      for (int64_t p = 0; p < depth; ++p) to[p * columns + i] = *b.at(top + p, first + i);
  }
}

// The a of a strip of tiles. Rows that lay a power of two apart would share lines of the cache.
void pack_strip(const Matrix& a, int64_t row, int64_t height, int64_t top, int64_t depth,
                float* to, int64_t down) {
  if (a.right == 1) {
    for (int64_t r = 0; r < height; ++r) std::copy_n(a.at(row + r, top), depth, to + r * down);
  } else {
    for (int64_t p = 0; p < depth; ++p)
      for (int64_t r = 0; r < height; ++r) to[r * down + p] = *a.at(row + r, top + p);
  }
}

// What the block contributes to up to kernel.rows rows of c, from `row` on.
void multiply_strip(const Kernel& kernel, const Product& product, const Block& block,
                    int64_t row) {
  static thread_local std::vector<float> buffers[2];
  const Matrix &a = product.a, &b = product.b, &c = product.c;
  const int64_t third = kernel.rows / 3, columns = block.vectors * kernel.width;
  const int64_t height = std::min(kernel.rows, product.rows - row);
  const bool add = product.add || block.top > 0;
  int64_t fetched = row * ((block.right - block.left + columns - 1) / columns);
  Tile tile;
  tile.depth = block.depth;
  tile.a_down = block.depth + kLine;
  tile.a_right = 1;
  tile.b_down = columns;
  float* const strip = aligned(&buffers[0], kernel.rows * tile.a_down);
  float* const edge = aligned(&buffers[1], kernel.rows * columns);
  pack_strip(a, row, height, block.top, block.depth, strip, tile.a_down);
  tile.a = strip;
  for (int64_t j = block.left; j < block.right; j += columns, fetched += kernel.rows) {
    const int64_t width = std::min(columns, block.right - j);
    const bool whole = c.right == 1 && width == columns && height % third == 0;
    tile.b = block.panels + (j - block.left) * block.depth;
    tile.c = whole ? c.at(row, j) : edge;
    tile.c_down = whole ? c.down : columns;
    tile.add = whole && add;
    tile.next = strip;
    tile.next_down = tile.a_down;
    if (product.weights == kLeft) {
      tile.next = a.at(std::min(row + kernel.rows, product.rows - 1), block.top);
      tile.next_down = a.down;
    } else if (product.weights == kRight && fetched < block.depth) {
      tile.next = b.at(block.top + block.depth + fetched, block.left);
      tile.next_down = b.down;
    }
    kernel.compute(tile, (height + third - 1) / third, block.vectors);
    if (whole) continue;
    for (int64_t i = 0; i < width; ++i)
      for (int64_t r = 0; r < height; ++r) {
        float* const to = c.at(row + r, j + i);
        *to = edge[r * columns + i] + (add ? *to : 0);
      }
  }
}

void multiply_serial(const Kernel& kernel, const Product& product) {
  static thread_local std::vector<float> buffer;
  Block block;
  block.vectors = product.columns > kernel.width ? 2 : 1;
  const int64_t columns = block.vectors * kernel.width;
  float* const panels = aligned(&buffer, product.deep * (product.wide + columns));
  block.panels = panels;
  for (block.left = 0; block.left < product.columns; block.left += product.wide) {
    block.right = std::min(product.columns, block.left + product.wide);
    for (block.top = 0; block.top < product.depth; block.top += product.deep) {
      block.depth = std::min(product.deep, product.depth - block.top);
      for (int64_t j = block.left; j < block.right; j += columns)
        pack_panel(product.b, block.top, block.depth, j, std::min(columns, block.right - j),
                   columns, panels + (j - block.left) * block.depth);
      for (int64_t i = 0; i < product.rows; i += kernel.rows)
        multiply_strip(kernel, product, block, i);
    }
  }
}

// Each thread computes some rows of c, or some columns where the weights are b.
void multiply(const Product& product) {
  const Kernel& kernel = best_kernel();
  const bool by_columns = product.weights == kRight;
  const int64_t unit = by_columns ? 2 * kernel.width : kernel.rows;
  const int64_t length = by_columns ? product.columns : product.rows;
  const int64_t units = (length + unit - 1) / unit;
#pragma omp parallel
  {
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t start = units * thread / threads * unit;
    const int64_t end = std::min(length, units * (thread + 1) / threads * unit);
    Product part = product;
    (by_columns ? part.columns : part.rows) = end - start;
    (by_columns ? part.b.data : part.a.data) += start * (by_columns ? part.b.right : part.a.down);
    part.c.data += start * (by_columns ? part.c.right : part.c.down);
    if (start < end) multiply_serial(kernel, part);
  }
}

struct Layer {
  int64_t images, inputs, outputs;
};

Layer layer(const MXTensor& x, const MXTensor& w) {
  return {x.shape[0], w.shape[1], w.shape[0]};
}

MXReturnValue fully_connected_shape(const Attributes& attrs,
                                    std::vector<std::vector<unsigned int>>* in,
                                    std::vector<std::vector<unsigned int>>* out) {
  const unsigned int outputs = static_cast<unsigned int>(number(attrs, "num_hidden", 0));
  const std::vector<unsigned int>& x = in->at(0);
  if (outputs < 1 || x.size() < 2) {
    MX_ERROR_MSG << "_alexnet_fully_connected needs num_hidden of at least 1, and (N, ...) data";
    return MX_FAIL;
  }
  unsigned int inputs = 1;
  for (size_t i = 1; i < x.size(); ++i) inputs *= x[i];
  in->at(1) = {outputs, inputs};
  in->at(2) = {outputs};
  out->at(0) = {x[0], outputs};
  return MX_SUCCESS;
}

// in: x, w, bias
MXReturnValue fully_connected_forward(const Attributes&, std::vector<MXTensor>* in,
                                      std::vector<MXTensor>* out, const OpResource&) {
  const Layer l = layer(in->at(0), in->at(1));
  float *x = in->at(0).data<float>(), *w = in->at(1).data<float>();
  float *bias = in->at(2).data<float>(), *y = out->at(0).data<float>();
  for (int64_t i = 0; i < l.images; ++i) std::copy_n(bias, l.outputs, y + i * l.outputs);
  multiply({{w, l.inputs, 1}, {x, 1, l.inputs}, {y, 1, l.outputs},  // y^T += w x^T
            l.outputs, l.images, l.inputs, true, kLeft, 1024, 128});
  return MX_SUCCESS;
}

// in: y's gradient, x, w, bias, y; out: the gradients of x, w and bias
MXReturnValue fully_connected_backward(const Attributes&, std::vector<MXTensor>* in,
                                       std::vector<MXTensor>* out, const OpResource&) {
  const Layer l = layer(in->at(1), in->at(2));
  float *g = in->at(0).data<float>(), *x = in->at(1).data<float>(), *w = in->at(2).data<float>();
  float *dx = out->at(0).data<float>(), *dw = out->at(1).data<float>();
  float* dbias = out->at(2).data<float>();
  std::fill_n(dbias, l.outputs, 0.0f);
  for (int64_t i = 0; i < l.images; ++i)
    for (int64_t o = 0; o < l.outputs; ++o) dbias[o] += g[i * l.outputs + o];
  multiply({{g, 1, l.outputs}, {x, l.inputs, 1}, {dw, l.inputs, 1},  // dw = g^T x
            l.outputs, l.inputs, l.images, false, kNeither, 128, 1024});
  multiply({{g, l.outputs, 1}, {w, l.inputs, 1}, {dx, l.inputs, 1},  // dx = g w
            l.images, l.inputs, l.outputs, false, kRight, 256, 256});
  return MX_SUCCESS;
}

}  // namespace

REGISTER_OP(_alexnet_fully_connected)
    .setParseAttrs(three_to_one)
    .setInferType(float32_only)
    .setInferShape(fully_connected_shape)
    .setForward(fully_connected_forward, "cpu")
    .setBackward(fully_connected_backward, "cpu");

#endif  // NATIVE_FULLY_CONNECTED_H_
