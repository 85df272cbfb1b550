// The transforms of Winograd's method (winograd.h), on 16 channels at a time.
//
// A tile of m x m outputs of a side x side kernel is a product of polynomials. Each factor is
// evaluated at 7 points a direction, the values are multiplied, and the product's coefficients are
// the outputs: 49 multiplications for 5x5 outputs of a 3x3 kernel instead of 225, and for 3x3 of a
// 5x5 kernel as many. Over channels and filters that makes 49 matrix products. Gradients are the
// transposes of the same transforms. (S. Winograd, "Arithmetic Complexity of Computations", 1980;
// A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.)
//
// The points decide how much float32's rounding is enlarged. In layers like AlexNet's, of random
// values, outputs are off by 2e-7 of their size with plain sums, by 2e-6 with the points -.3, .3,
// -.875, .875, -1.75, 1.75 and infinity, and by 3e-6 with the usual 0, 1, -1, 2, -2 and infinity,
// which save less. Pairs without 0 balance the points' powers and their distances.
#ifndef NATIVE_WINOGRAD_TRANSFORMS_H_
#define NATIVE_WINOGRAD_TRANSFORMS_H_

#include <cstdint>

#include "product.h"

namespace {

const int kPoints = 7;
const int kValues = kPoints * kPoints;
const int64_t kLanes = 16;  // channels handled together

constexpr int outputs_of_tile(int side) { return kPoints + 1 - side; }  // a direction

#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")

const float kA = 0.3f, kB = 0.875f, kC = 1.75f;
const float kA2 = kA * kA, kB2 = kB * kB, kC2 = kC * kC;
const float kScaleA = 1 / (2 * kA * (kA2 - kB2) * (kA2 - kC2));
const float kScaleB = 1 / (2 * kB * (kB2 - kA2) * (kB2 - kC2));
const float kScaleC = 1 / (2 * kC * (kC2 - kA2) * (kC2 - kB2));
// 1 over the product of a point's distances to the others.
const float kScales[kPoints] = {kScaleA, -kScaleA, kScaleB, -kScaleB, kScaleC, -kScaleC, 1};

// Values at the points of a polynomial with n coefficients.
template <int n>
struct Evaluate {
  static const int kFrom = n, kTo = kPoints;
  template <typename Vector>
  static INLINED void pair(const Vector* c, float point, Vector* v) {
    const float square = point * point;
    Vector even = c[0] + square * c[2], odd = c[1];
    if (n > 3) odd += square * c[3];
    if (n > 4) even += square * square * c[4];
    v[0] = even + point * odd;
    v[1] = even - point * odd;
  }
  template <typename Vector>
  static INLINED void apply(const Vector* c, Vector* v) {
    pair(c, kA, v);
    pair(c, kB, v + 2);
    pair(c, kC, v + 4);
    v[6] = c[n - 1];
  }
};

// Its transpose.
template <int n>
struct Collect {
  static const int kFrom = kPoints, kTo = n;
  template <typename Vector>
  static INLINED void apply(const Vector* v, Vector* c) {
    const Vector even_a = v[0] + v[1], even_b = v[2] + v[3], even_c = v[4] + v[5];
    const Vector odd_a = kA * (v[0] - v[1]), odd_b = kB * (v[2] - v[3]), odd_c = kC * (v[4] - v[5]);
    c[0] = even_a + even_b + even_c;
    c[1] = odd_a + odd_b + odd_c;
    c[2] = kA2 * even_a + kB2 * even_b + kC2 * even_c;
    if (n > 3) c[3] = kA2 * odd_a + kB2 * odd_b + kC2 * odd_c;
    if (n > 4) c[4] = kA2 * kA2 * even_a + kB2 * kB2 * even_b + kC2 * kC2 * even_c;
    c[n - 1] += v[6];
  }
};

template <int n>
struct EvaluateScaled {
  static const int kFrom = n, kTo = kPoints;
  template <typename Vector>
  static INLINED void apply(const Vector* c, Vector* v) {
    Evaluate<n>::apply(c, v);
    for (int i = 0; i < kPoints; ++i) v[i] *= kScales[i];
  }
};

template <int n>
struct CollectScaled {
  static const int kFrom = kPoints, kTo = n;
  template <typename Vector>
  static INLINED void apply(const Vector* v, Vector* c) {
    Vector scaled[kPoints];
    for (int i = 0; i < kPoints; ++i) scaled[i] = kScales[i] * v[i];
    Collect<n>::apply(scaled, c);
  }
};

// The transform of inputs that makes products of values at the points into outputs: its rows are
// the coefficients of the polynomials that vanish at all other points. Those of a point p and -p
// are (x + p) and (x - p) times x^4 - sum x^2 + product, of the squares of the other two.
struct Interpolate {
  static const int kFrom = kPoints, kTo = kPoints;
  template <typename Vector>
  static INLINED void pair(const Vector* d, float point, float sum, float product, Vector* v) {
    const Vector odd = d[5] - sum * d[3] + product * d[1];
    const Vector even = point * (d[4] - sum * d[2] + product * d[0]);
    v[0] = odd + even;
    v[1] = odd - even;
  }
  template <typename Vector>
  static INLINED void apply(const Vector* d, Vector* v) {
    pair(d, kA, kB2 + kC2, kB2 * kC2, v);
    pair(d, kB, kA2 + kC2, kA2 * kC2, v + 2);
    pair(d, kC, kA2 + kB2, kA2 * kB2, v + 4);
    v[6] = d[6] - (kA2 + kB2 + kC2) * d[4] + (kA2 * kB2 + kA2 * kC2 + kB2 * kC2) * d[2] -
           kA2 * kB2 * kC2 * d[0];
  }
};

struct InterpolateTransposed {
  static const int kFrom = kPoints, kTo = kPoints;
  template <typename Vector>
  static INLINED void apply(const Vector* v, Vector* d) {
    const Vector even_a = v[0] + v[1], even_b = v[2] + v[3], even_c = v[4] + v[5];
    const Vector odd_a = kA * (v[0] - v[1]), odd_b = kB * (v[2] - v[3]), odd_c = kC * (v[4] - v[5]);
    d[0] = kB2 * kC2 * odd_a + kA2 * kC2 * odd_b + kA2 * kB2 * odd_c - kA2 * kB2 * kC2 * v[6];
    d[1] = kB2 * kC2 * even_a + kA2 * kC2 * even_b + kA2 * kB2 * even_c;
    d[2] = (kA2 * kB2 + kA2 * kC2 + kB2 * kC2) * v[6] - (kB2 + kC2) * odd_a -
           (kA2 + kC2) * odd_b - (kA2 + kB2) * odd_c;
    d[3] = -(kB2 + kC2) * even_a - (kA2 + kC2) * even_b - (kA2 + kB2) * even_c;
    d[4] = odd_a + odd_b + odd_c - (kA2 + kB2 + kC2) * v[6];
    d[5] = even_a + even_b + even_c;
    d[6] = v[6];
  }
};

// (rows, columns) of 16 channels
struct Grid {
  float* data;
  int64_t down, right;  // from a row to the next, from a column to the next
};

// A transform along columns, and then along rows.
template <typename Transform, typename Vector, bool add = false>
INLINED void transform(Grid from, Grid to) {
  const int in = Transform::kFrom, out = Transform::kTo;
  for (int64_t lane = 0; lane < kLanes; lane += sizeof(Vector) / sizeof(float)) {
    Vector half[in][out];
#pragma GCC unroll 7
    for (int j = 0; j < in; ++j) {
      Vector column[in];
      for (int i = 0; i < in; ++i)
        column[i] = load<Vector>(from.data + i * from.down + j * from.right + lane);
      Transform::apply(column, half[j]);
    }
#pragma GCC unroll 7
    for (int i = 0; i < out; ++i) {
      Vector row[in], result[out];
      for (int j = 0; j < in; ++j) row[j] = half[j][i];
      Transform::apply(row, result);
      for (int j = 0; j < out; ++j) {
        float* const at = to.data + i * to.down + j * to.right + lane;
        store(add ? load<Vector>(at) + result[j] : result[j], at);
      }
    }
  }
}

// What is to be done for 16 channels: of some tiles of a map, or of a kernel, which is one tile.
struct Step {
  enum Kind {
    kInputs,           // map -> values
    kOutputs,          // values -> map
    kOutputGradients,  // map -> values
    kInputGradients,   // values, added -> map
    kWeights,          // kernel -> values
    kWeightGradients   // values -> kernel
  } kind;
  int64_t side, tiles, per_row;  // per_row: tiles beside each other
  float* map;
  int64_t map_down;  // from a row to the next; columns are 16 apart
  float* values;
  int64_t value_right, value_down;  // from a point to the next, from a tile to the next
};

template <typename Vector, int side>
INLINED void run(const Step& s) {
  const int size = outputs_of_tile(side);
  for (int64_t t = 0; t < s.tiles; ++t) {
    const Grid map = {s.map + (t / s.per_row * s.map_down + t % s.per_row * kLanes) * size,
                      s.map_down, kLanes};
    const Grid values = {s.values + t * s.value_down, kPoints * s.value_right, s.value_right};
    if (t + 1 < s.tiles)
      for (int i = 0; i < kValues; ++i)
        __builtin_prefetch(values.data + s.value_down + i * s.value_right, 1);
    switch (s.kind) {
      case Step::kInputs:
        transform<Interpolate, Vector>(map, values);
        break;
      case Step::kOutputs:
        transform<Collect<size>, Vector>(values, map);
        break;
      case Step::kOutputGradients:
        transform<Evaluate<size>, Vector>(map, values);
        break;
      case Step::kInputGradients:
        transform<InterpolateTransposed, Vector, true>(values, map);
        break;
      case Step::kWeights:
        transform<EvaluateScaled<side>, Vector>(map, values);
        break;
      case Step::kWeightGradients:
        transform<CollectScaled<side>, Vector>(values, map);
        break;
    }
  }
}

void run_anywhere(const Step& s) { s.side == 3 ? run<Floats4, 3>(s) : run<Floats4, 5>(s); }

#if defined(__x86_64__)
AVX2 void run_avx2(const Step& s) { s.side == 3 ? run<Floats8, 3>(s) : run<Floats8, 5>(s); }

AVX512 void run_avx512(const Step& s) { s.side == 3 ? run<Floats16, 3>(s) : run<Floats16, 5>(s); }
#endif

#pragma GCC pop_options

void run(const Step& step) {
#if defined(__x86_64__)
  if (processor() == kAvx512) return run_avx512(step);
  if (processor() == kAvx2) return run_avx2(step);
#endif
  run_anywhere(step);
}

}  // namespace

#endif  // NATIVE_WINOGRAD_TRANSFORMS_H_
