// _alexnet_int8_convolution: a convolution of an int8 network, for inference, with a relu behind it
// and, if asked for, AlexNet's LRN and max pooling: in this order or, with a `map_range`, in the
// other. It makes uint8. MXNet's operators for the same row move five arrays through memory, some
// of them float32, and copy most into another layout.
//
// It takes uint8, or float32 if there is an `input_range` r: this becomes uint8, from -r, which is
// 1, over 0, which is 128, to r, which is 255. Channels come last ("NHWC") where layout says so.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "common.h"
#include "int8_outputs.h"
#include "int8_product.h"
#include "max_pool.h"
#include "parallel.h"

namespace {

const int64_t kPlaces = 16 * kRows;  // of a map, handled together: their sums stay in the cache

struct Int8Convolution {
  int64_t images, groups, channels, filters;    // channels and filters of a group
  int64_t kernel[2], stride[2], pad[2], in[2];  // rows, columns
  bool last_in, last_out;                       // whether channels come last
  bool of_floats;
  float input_factor;             // if of_floats: steps of uint8 for each 1
  Int8Outputs of_map, of_pooled;  // the latter with pooled_first: before LRN
  bool pooled_first;
  Pool pool;  // of the map that the convolution makes; without pooling, windows of single places

  int64_t all_filters() const { return groups * filters; }
  int64_t map_stride() const { return in_blocks(all_filters(), kRoom) * kRoom; }
  int64_t blocks() const { return in_blocks(filters, kFilters); }  // of a group
  int64_t width() const { return in[1] + 2 * pad[1]; }             // of a padded row
  int64_t quads() const { return (kernel[1] * channels + 3) / 4; }
  Int8Product product() const { return {kernel[0], quads(), width() * channels, 0}; }
};

bool come_last(const Attributes& attrs, const char* name) {
  if (!has(attrs, name)) return false;
  if (attrs.at(name) != "NHWC") refuse_value(attrs, name);
  return true;
}

void read_lrn(const Attributes& attrs, Int8Outputs* outputs) {
  if (read_integer(attrs, "nsize", 0, 0) != 5) refuse_value(attrs, "nsize");
  outputs->normal = true;
  outputs->by = static_cast<float>(read_number(attrs, "alpha", 1e-4) / 5);
  outputs->knorm = static_cast<float>(read_number(attrs, "knorm", 2));
  if (!(outputs->by >= 0)) refuse_value(attrs, "alpha");
  if (!(outputs->knorm > 0)) refuse_value(attrs, "knorm");
}

// The pooling behind a map of these sides.
Pool read_pool(const Attributes& attrs, const Shape& map) {
  Attributes pooling = {{"kernel", "(1, 1)"}, {"stride", "(1, 1)"}};
  if (has(attrs, "pool_kernel")) {
    pooling["kernel"] = attrs.at("pool_kernel");
    pooling["stride"] = has(attrs, "pool_stride") ? attrs.at("pool_stride") : "(1, 1)";
  }
  if (has(attrs, "pooling_convention"))
    pooling["pooling_convention"] = attrs.at("pooling_convention");
  return pool_of(pooling, map);
}

// The convolution of x, whose channels come last where attrs say so.
Int8Convolution int8_convolution_of(const Attributes& attrs, const Shape& x) {
  Int8Convolution c;
  c.last_in = come_last(attrs, "layout");
  c.last_out = come_last(attrs, "out_layout");
  c.of_floats = has(attrs, "input_range");
  c.input_factor = c.of_floats ? read_factor(attrs, "input_range", 127) : 0;
  c.groups = read_integer(attrs, "num_group", 1, 1);
  const int64_t filters = read_integer(attrs, "num_filter", 0, 0);
  read_pair(attrs, "kernel", 1, c.kernel);
  for (int i = 0; i < 2; ++i) c.stride[i] = 1, c.pad[i] = 0;
  if (has(attrs, "stride")) read_pair(attrs, "stride", 1, c.stride);
  if (has(attrs, "pad")) read_pair(attrs, "pad", 0, c.pad);
  bool right = x.size() == 4 && filters >= 1 && filters % c.groups == 0;
  int64_t map[2] = {0, 0};
  if (right) {
    const int64_t channels = x[c.last_in ? 3 : 1], area = c.kernel[0] * c.kernel[1];
    right = channels >= 1 && channels % c.groups == 0 && area <= kLargest / channels &&
            !(c.last_in && c.of_floats);
    c.images = x[0];
    c.channels = channels / c.groups;
    c.filters = filters / c.groups;
    for (int i = 0; i < 2; ++i) {
      c.in[i] = x[(c.last_in ? 1 : 2) + i];
      const int64_t room = c.in[i] + 2 * c.pad[i] - c.kernel[i];
      map[i] = room < 0 ? 0 : room / c.stride[i] + 1;
      right = right && map[i] >= 1 && c.in[i] + 2 * c.pad[i] <= kLargest;
    }
  }
  if (!right)
    throw Refused("an int8 convolution takes four axes, num_filter, and a kernel that fits, and"
                  " float32 with channels first, not " + text_of(x));
  c.pool = read_pool(attrs, {c.images, filters, map[0], map[1]});
  c.pooled_first = has(attrs, "map_range");
  c.of_map = c.of_pooled = Int8Outputs();
  c.of_map.filters = c.of_pooled.filters = filters;
  c.of_map.relu = true;
  c.of_map.factor = c.of_pooled.factor = read_factor(attrs, "max_calib_range", kUint8Range);
  if (c.pooled_first) c.of_map.factor = read_factor(attrs, "map_range", kUint8Range);
  if (has(attrs, "nsize")) read_lrn(attrs, c.pooled_first ? &c.of_pooled : &c.of_map);
  return c;
}

Shape int8_weight_shape(const Int8Convolution& c) {
  return {c.groups * c.blocks(), c.product().all_quads(), 4 * kFilters};
}

Shape int8_output_shape(const Int8Convolution& c) {
  const int64_t rows = c.pool.out[0], columns = c.pool.out[1], filters = c.all_filters();
  return c.last_out ? Shape{c.images, rows, columns, filters}
                    : Shape{c.images, filters, rows, columns};
}

// A row of a map's values, which become uint8.
struct Int8Row {
  static INLINED void run(const float* x, int64_t count, float factor, uint8_t* q) {
    const int64_t part = 512;
    int32_t nearest[part];  // apart, both loops are vector instructions
    for (int64_t start = 0; start < count; start += part) {
      const int64_t width = std::min(part, count - start);
      for (int64_t i = 0; i < width; ++i) {
        const float value = factor * x[start + i], above = value > -127 ? value : -127;
        nearest[i] = static_cast<int32_t>((above < 127 ? above : 127) + 128.5f);
      }
      for (int64_t i = 0; i < width; ++i) q[start + i] = static_cast<uint8_t>(nearest[i]);
    }
  }
};

// Row `y` of one image's channels of a group, channels last. buffer: for a row of a channel.
void copy_row(const Int8Convolution& c, const MXTensor& x, int64_t image, int64_t group, int64_t y,
              uint8_t* buffer, uint8_t* to) {
  const int64_t columns = c.in[1], all = c.groups * c.channels, first = group * c.channels;
  const uint8_t* const bytes = static_cast<const uint8_t*>(x.data_ptr);
  const float* const floats = static_cast<const float*>(x.data_ptr);
  if (c.last_in) {
    const uint8_t* const from = bytes + ((image * c.in[0] + y) * columns) * all + first;
    if (c.groups == 1) {
      std::memcpy(to, from, columns * all);
    } else {
      for (int64_t p = 0; p < columns; ++p)
        std::memcpy(to + p * c.channels, from + p * all, c.channels);
    }
    return;
  }
  for (int64_t k = 0; k < c.channels; ++k) {
    const int64_t at = ((image * all + first + k) * c.in[0] + y) * columns;
    const uint8_t* from = bytes + at;
    if (c.of_floats) {
      dispatch<Int8Row>(floats + at, columns, c.input_factor, buffer);
      from = buffer;
    }
    for (int64_t p = 0; p < columns; ++p) to[p * c.channels + k] = from[p];
  }
}

// Row `r` of a padded image, of a group, channels last.
void copy_padded_row(const Int8Convolution& c, const MXTensor& x, int64_t image, int64_t group,
                     int64_t r, uint8_t* to) {
  static thread_local std::vector<uint8_t> buffer;
  const int64_t row = c.width() * c.channels, edge = c.pad[1] * c.channels, y = r - c.pad[0];
  const uint8_t zero = c.of_floats ? 128 : 0;
  buffer.resize(c.in[1]);
  if (y < 0 || y >= c.in[0]) {
    std::memset(to, zero, row);
  } else {
    std::memset(to, zero, edge);
    copy_row(c, x, image, group, y, buffer.data(), to + edge);
    std::memset(to + row - edge, zero, edge);
  }
}

// So many places' rows of uint8, all filters of a place.
void convolve_places(const Int8Convolution& c, const uint8_t* const* places, int64_t count,
                     int64_t group_stride, const int8_t* weights, uint8_t* to) {
  static thread_local std::vector<float> buffers[2];
  static thread_local std::vector<const uint8_t*> of_group;
  const int64_t filters = c.all_filters(), row = c.of_map.row();
  float* const memory = aligned(&buffers[0], kPlaces * row);
  int32_t* const sums = reinterpret_cast<int32_t*>(memory);
  float* const values = aligned(&buffers[1], kPlaces * row) + kRoom;
  const Int8Product product = c.product();
  of_group.assign(places, places + count);
  for (int64_t group = 0; group < c.groups; ++group) {
    // What a last block has too many, the next group overwrites.
    multiply_int8(product, of_group.data(), count,
                  weights + group * c.blocks() * product.weights(), c.blocks(),
                  sums + group * c.filters, row);
    for (const uint8_t*& place : of_group) place += group_stride;
  }
  for (int64_t i = 0; i < count; ++i) {
    float* const of_place = values + i * row;
    dispatch<ValuesOfSums>(c.of_map, sums + i * row, of_place);
    set_room(c.of_map, of_place);
  }
  for (int64_t i = 0; i < count; ++i)
    with_vector<QuantizeRow>(c.of_map, values + i * row, to + i * c.map_stride());
}

// A row of pooled outputs, all filters of a place side by side; map: from its window on.
struct PoolPlaces {
  static INLINED void run(const Pool& pool, const uint8_t* map, int64_t stride, int64_t rows,
                          int64_t filters, uint8_t* to) {
    for (int64_t o = 0; o < pool.out[1]; ++o) {
      uint8_t* __restrict const most = to + o * filters;
      const int64_t start = o * pool.stride[1], end = std::min(pool.in[1], start + pool.kernel[1]);
      std::memcpy(most, map + start * stride, filters);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t p = start; p < end; ++p) {
          const uint8_t* const place = map + (r * pool.in[1] + p) * stride;
          for (int64_t f = 0; f < filters; ++f) most[f] = larger(most[f], place[f]);
        }
    }
  }
};

// LRN of a row of pooled outputs, in place.
void normalise_pooled(const Int8Convolution& c, uint8_t* pooled) {
  static thread_local std::vector<float> buffer;
  static thread_local std::vector<uint8_t> quantized;
  const int64_t filters = c.all_filters();
  float* const values = aligned(&buffer, c.of_pooled.row()) + kRoom;
  quantized.resize(c.map_stride());
  for (int64_t p = 0; p < c.pool.out[1]; ++p, pooled += filters) {
    for (int64_t f = 0; f < filters; ++f) values[f] = pooled[f] / c.of_map.factor;
    set_room(c.of_pooled, values);
    uint8_t* const to = quantized.data();
    with_vector<QuantizeRow>(c.of_pooled, values, to);
    std::memcpy(pooled, to, filters);
  }
}

// Row `y` of an image's output.
void pool_row(const Int8Convolution& c, const uint8_t* map, int64_t image, int64_t y,
              uint8_t* out) {
  static thread_local std::vector<uint8_t> buffer;
  const Pool& pool = c.pool;
  const int64_t filters = c.all_filters(), top = y * pool.stride[0];
  const int64_t rows = std::min(pool.kernel[0], pool.in[0] - top);
  buffer.resize(pool.out[1] * filters);
  uint8_t* const row = out + (image * pool.out[0] + y) * pool.out[1] * filters;
  uint8_t* const to = c.last_out ? row : buffer.data();
  dispatch<PoolPlaces>(pool, map + top * pool.in[1] * c.map_stride(), c.map_stride(), rows, filters,
                       to);
  if (c.pooled_first) normalise_pooled(c, to);
  if (c.last_out) return;
  for (int64_t f = 0; f < filters; ++f)
    for (int64_t p = 0; p < pool.out[1]; ++p)
      out[((image * filters + f) * pool.out[0] + y) * pool.out[1] + p] = to[p * filters + f];
}

// One image, whose parts `each` computes: it calls work(i) for each i in [0, count).
template <typename Each>
void convolve_image(const Int8Convolution& c, const MXTensor& x, const int8_t* weights,
                    int64_t image, uint8_t* out, const Each& each) {
  static thread_local std::vector<uint8_t> buffers[2];
  const int64_t columns = c.pool.in[1], places = c.pool.in_plane();
  const int64_t height = c.in[0] + 2 * c.pad[0], row = c.width() * c.channels;
  buffers[0].resize(c.groups * height * row + 4);  // a place's last four values may reach beyond
  buffers[1].resize(places * c.map_stride());
  uint8_t *const input = buffers[0].data(), *const map = buffers[1].data();
  each(c.groups * height, [&](int64_t i) {
    copy_padded_row(c, x, image, i / height, i % height, input + i * row);
  });
  const int64_t together = Each::workers() * kPlaces;
  const int64_t parts = in_blocks(places, together) * Each::workers();
  each(parts, [&](int64_t i) {
    const uint8_t* of[kPlaces];
    const int64_t first = places * i / parts, count = places * (i + 1) / parts - first;
    for (int64_t j = 0; j < count; ++j) {
      const int64_t y = (first + j) / columns, p = (first + j) % columns;
      of[j] = input + y * c.stride[0] * row + p * c.stride[1] * c.channels;
    }
    convolve_places(c, of, count, height * row, weights, map + first * c.map_stride());
  });
  each(c.pool.out[0], [&](int64_t y) { pool_row(c, map, image, y, out); });
}

MXReturnValue int8_convolution_type(const Attributes& attrs, std::vector<int>* in,
                                    std::vector<int>* out) {
  return reported([&] {
    const int type = has(attrs, "input_range") ? kFloat32 : kUint8;
    if (in->at(0) != type && in->at(0) != kUnknownType)
      throw Refused("an int8 convolution takes uint8, or float32 with an input_range");
    in->at(0) = type;
    in->at(1) = kInt8;
    in->at(2) = in->at(3) = out->at(1) = out->at(2) = kFloat32;
    out->at(0) = kUint8;
  });
}

void int8_convolution_shape(const Attributes& attrs, std::vector<Shape>* in,
                            std::vector<Shape>* out) {
  const Int8Convolution c = int8_convolution_of(attrs, in->at(0));
  in->at(1) = int8_weight_shape(c);
  in->at(2) = in->at(3) = {c.all_filters()};
  out->at(0) = int8_output_shape(c);
  out->at(1) = out->at(2) = {1};
}

// in: data, weights in blocks, scale and bias; out: data, and the ends of its range
void int8_convolution_forward(const Attributes& attrs, Tensors& in, Tensors& out) {
  Int8Convolution c = int8_convolution_of(attrs, in[0].shape);
  const int64_t filters = c.all_filters();
  c.of_map.scale = floats(in[2], {filters}, "the scale");
  c.of_map.bias = floats(in[3], {filters}, "the bias");
  check_shape(in[1], int8_weight_shape(c), "the weight");
  check_shape(out[0], int8_output_shape(c), "the output");
  const int8_t* const weights = in[1].data<int8_t>();
  uint8_t* const y = out[0].data<uint8_t>();
  if (c.images % threads() == 0) {
    parallel_for(c.images, [&](int64_t image) {
      convolve_image(c, in[0], weights, image, y, Serially());
    });
  } else {
    for (int64_t image = 0; image < c.images; ++image)
      convolve_image(c, in[0], weights, image, y, InParallel());
  }
  write_range(c.of_pooled, out);
}

}  // namespace

REGISTER_OP(_alexnet_int8_convolution)
    .setParseAttrs(counts<4, 3>)
    .setInferType(int8_convolution_type)
    .setInferShape(infer_shape<int8_convolution_shape>)
    .setForward(compute<int8_convolution_forward>, "cpu");
