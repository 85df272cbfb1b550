// What native/ computes with AMX, as C functions for tests/native/test_amx_tiles.py; with
// amx_emulator.h on processors without it.
#include "../../native/bfloat16_gradients.h"
#include "../../native/bfloat16_layer.h"
#include "../../native/int8_product.h"

// sides: images, groups, channels and filters of a group, rows and columns, both pads, kernel,
// stride. y: read for the relu. y_out and the gradients are written, dx unless it is null.
extern "C" void convolve(const int64_t* sides, bool relu, const float* x, const float* w,
                         const float* bias, const float* dy, const float* y, float* y_out,
                         float* dx, float* dw, float* dbias) {
  Convolution c = {};
  c.images = sides[0];
  c.groups = sides[1];
  c.stride = sides[9];
  c.channels = sides[2] * c.stride * c.stride;
  c.filters = sides[3];
  c.kernel = sides[8];
  c.side = (c.kernel + c.stride - 1) / c.stride;
  c.relu = relu;
  for (int i = 0; i < 2; ++i) {
    c.in[i] = sides[4 + i];
    c.pad[i] = sides[6 + i];
    c.out[i] = (c.in[i] + 2 * c.pad[i] - c.kernel) / c.stride + 1;
  }
  c.choose_method();  // as the operator does, though tiles take no method
  convolve_in_tiles(c, x, w, bias, y_out, nullptr, false);
  differentiate_in_tiles(c, dy, x, w, y, dx, dw, dbias);
}

extern "C" void connect(int64_t images, int64_t inputs, int64_t outputs, const float* x,
                        const float* w, const float* bias, const float* g, float* y, float* dx,
                        float* dw) {
  multiply_in_tiles(images, inputs, outputs, inputs, x, w, bias, y);
  differentiate_weight_in_tiles(images, inputs, outputs, g, x, dw);
  differentiate_input_in_tiles(images, inputs, outputs, g, w, dx);
}

// w: of bfloat16, `row` values a row.
extern "C" void connect_narrow(int64_t images, int64_t inputs, int64_t outputs, int64_t row,
                               const float* x, const uint16_t* w, const float* bias, float* y) {
  multiply_in_tiles(images, inputs, outputs, row, x, reinterpret_cast<const Bfloat16*>(w), bias,
                    y);
}

// sums: rows of a multiple of 16 places and all filters.
extern "C" void multiply_integers(int64_t runs, int64_t quads, int64_t run_stride, int64_t count,
                                  int64_t blocks, const uint8_t* values, const int8_t* weights,
                                  int32_t* sums) {
  const Int8Product product = {runs, quads, run_stride, 0};
  std::vector<const uint8_t*> places;
  for (int64_t i = 0; i < count; ++i) places.push_back(values + 3 * i);  // as of a convolution
  multiply_int8(product, places.data(), count, weights, blocks, sums, blocks * kFilters);
}

extern "C" bool has_tiles() { return kAmx; }

// Products of tiles so far, if they are emulated.
extern "C" int64_t products() {
#ifdef ALEXNET_EMULATED_TILES
  return emulated::products;
#else
  return 0;
#endif
}
