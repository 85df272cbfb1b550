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
#ifdef HAS_VARIANTS
#include <immintrin.h>
#endif

namespace {

const float kUint8Range = 255.5f, kInt8Range = 127.5f;

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

// Channels [first, last) of image q, normalised, to planes one behind the other; `scale` as
// Normalise's.
template <typename Value>
void quantize_channels(const Lrn& lrn, const Value* q, int64_t first, int64_t last, float scale,
                       float factor, uint8_t* to) {
  float* const s = scratch(lrn, 3);
  float *const power = s + lrn.plane, *const y = power + lrn.plane;
  for (int64_t c = first; c < last; ++c, to += lrn.plane) {
    dispatch<Normalise>(lrn, q, c, scale, s, power, y);
    dispatch<Quantize>(y, lrn.plane, factor, to);
  }
}

#ifdef HAS_VARIANTS

AVX512 INLINED __m256 load_8(const uint8_t* x) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)x)));
}

AVX512 INLINED __m256 load_8(const int8_t* x) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)x)));
}

// s^-0.75. Two square roots and a division would take as long as all the rest. y is first right to
// some 12 bits, and e = 1 - s^3 y^4 then corrects it, to second order.
AVX512 INLINED __m256 power_of_8(__m256 s) {
  const __m256 root = _mm256_rsqrt14_ps(s);
  const __m256 y = _mm256_mul_ps(root, _mm256_mul_ps(root, _mm256_rsqrt14_ps(root)));
  const __m256 b = _mm256_mul_ps(s, y), a = _mm256_mul_ps(_mm256_mul_ps(b, y), b);
  const __m256 e = _mm256_fnmadd_ps(a, b, _mm256_set1_ps(1));
  const __m256 more = _mm256_fmadd_ps(e, _mm256_set1_ps(5.0f / 32), _mm256_set1_ps(0.25f));
  return _mm256_fmadd_ps(_mm256_mul_ps(y, e), more, y);
}

// As quantize_channels, for AlexNet's window and power, 8 places of all channels at a time: squares
// are used again while they are in registers. In loops apart, since a processor looks ahead too few
// instructions to fill the time that so long a chain of them takes. Not 16 at a time: the clock
// would slow down, and MXNet's int8 layers with it.
template <typename Value>
AVX512 void quantize_by_8(const Lrn& lrn, const Value* q, int64_t first, int64_t last, float scale,
                           float factor, uint8_t* to) {
  static thread_local std::vector<float> buffer;
  buffer.resize(8 * (last - first));
  float* const s = buffer.data();
  const int64_t plane = lrn.plane, channels = lrn.channels;  // else read again after each store
  const __m256 zero = _mm256_setzero_ps(), by = _mm256_set1_ps(scale);
  const __m256 k = _mm256_set1_ps(lrn.knorm);
  for (int64_t start = 0; start < plane; start += 8) {
    const int64_t place = std::min(start, plane - 8);
    const Value* const x = q + place;
    __m256 squares[5] = {zero, zero, zero, zero, zero};
    for (int64_t j = std::max<int64_t>(0, first - 2); j < last + 2; ++j) {
      for (int i = 0; i < 4; ++i) squares[i] = squares[i + 1];
      const __m256 value = j < channels ? load_8(x + j * plane) : zero;
      squares[4] = _mm256_mul_ps(value, value);
      if (j < first + 2) continue;
      __m256 sum = _mm256_add_ps(squares[0], squares[1]);
      for (int i = 2; i < 5; ++i) sum = _mm256_add_ps(sum, squares[i]);
      _mm256_storeu_ps(s + 8 * (j - 2 - first), _mm256_fmadd_ps(by, sum, k));
    }
    for (int64_t c = 0; c < last - first; ++c)
      _mm256_storeu_ps(s + 8 * c, power_of_8(_mm256_loadu_ps(s + 8 * c)));
    for (int64_t c = 0; c < last - first; ++c) {
      const __m256 value = _mm256_mul_ps(_mm256_set1_ps(factor), load_8(x + (first + c) * plane));
      const __m256 y = _mm256_max_ps(_mm256_mul_ps(value, _mm256_loadu_ps(s + 8 * c)), zero);
      const __m256i nearest = _mm256_cvttps_epi32(_mm256_add_ps(y, _mm256_set1_ps(0.5f)));
      _mm_storel_epi64((__m128i*)(to + c * plane + place), _mm256_cvtusepi32_epi8(nearest));
    }
  }
}
#endif

// q -> out, which are multiples of `step` and of 1 / `factor`. Integers rise as what they stand for
// does, so the largest are pooled.
template <typename Value>
void int8_lrn(const Lrn& lrn, const Value* q, float step, float factor, uint8_t* out) {
  auto* quantize = quantize_channels<Value>;
#ifdef HAS_VARIANTS
  const bool alexnets = lrn.half == 2 && lrn.beta == 0.75f && lrn.knorm > 0;
  const bool fits = !lrn.relu && lrn.plane >= 8;
  if (kVariant == kAvx512 && alexnets && fits) quantize = quantize_by_8<Value>;
#endif
  for_each_range_of_channels(lrn, [&](int64_t image, int64_t first, int64_t last) {
    static thread_local std::vector<uint8_t> buffer;
    uint8_t* y = out + (image * lrn.channels + first) * lrn.out_plane;
    const int64_t size = (last - first) * lrn.plane;
    if (lrn.pooled) buffer.resize(size + lrn.pool.in[1]);
    uint8_t* whole = lrn.pooled ? buffer.data() : y;
    quantize(lrn, q + image * lrn.channels * lrn.plane, first, last, lrn.scale * step * step,
             factor * step, whole);
    if (!lrn.pooled) return;
    for (int64_t c = first; c < last; ++c, whole += lrn.plane, y += lrn.out_plane)
      dispatch<PoolPlane>(lrn.pool, whole, buffer.data() + size, y);
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
