// The transforms of Winograd's method, on 16 channels at a time.
//
// A convolution is a product of polynomials: in one direction, 3 weights and a gradient of 5
// outputs are the coefficients of two polynomials whose product has 7 coefficients. A polynomial
// with 7 coefficients is known by its values at 7 points, and values are multiplied one by one.
// So F(5, 3), 5 outputs of a kernel of 3, and F(3, 5) take 7 multiplications in place of 15, and
// in two directions 49 in place of 225. In the notation of Lavin and Gray, a tile of outputs is
//   Y = A^T [(G w G^T) * (B^T d B)] A        (*: value by value; d: 7x7 inputs, w: the kernel)
// G, which evaluates the weights and scales the values, is EvaluateScaled here, B^T is Interpolate
// and A^T is Collect. Summed over channels, the products in brackets are 49 matrix products of
// tiles by channels and channels by filters. Gradients are the transposes: A evaluates the output's
// gradient, B brings it back to the inputs, and G^T to the weights.
// A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308;
// S. Winograd, "Arithmetic Complexity of Computations", 1980.
//
// The points are -.3, .3, -.875, .875, -1.75, 1.75 and infinity, where the value is the highest
// coefficient. They decide how much float32's rounding is enlarged: in layers like AlexNet's, of
// random values, outputs are off by 2e-7 of their size with plain sums, by 2e-6 with these points,
// and by 3e-6 with the usual 0, 1, -1, 2, -2 and infinity, which save less. Pairs without 0
// balance the points' powers and their distances.
#pragma once

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

// Values at the points of a polynomial with n coefficients; apply_at_both: at a point and its
// negative.
template <int n>
struct Evaluate {
  static const int kFrom = n, kTo = kPoints;
  template <typename Vector>
  static INLINED void apply_at_both(const Vector* c, float point, Vector* v) {
    const float square = point * point;
    Vector even = c[0] + square * c[2], odd = c[1];
    if (n > 3) odd += square * c[3];
    if (n > 4) even += square * square * c[4];
    v[0] = even + point * odd;
    v[1] = even - point * odd;
  }
  template <typename Vector>
  static INLINED void apply(const Vector* c, Vector* v) {
    apply_at_both(c, kA, v);
    apply_at_both(c, kB, v + 2);
    apply_at_both(c, kC, v + 4);
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
  static INLINED void apply_at_both(const Vector* d, float point, float sum, float product,
                                    Vector* v) {
    const Vector odd = d[5] - sum * d[3] + product * d[1];
    const Vector even = point * (d[4] - sum * d[2] + product * d[0]);
    v[0] = odd + even;
    v[1] = odd - even;
  }
  template <typename Vector>
  static INLINED void apply(const Vector* d, Vector* v) {
    apply_at_both(d, kA, kB2 + kC2, kB2 * kC2, v);
    apply_at_both(d, kB, kA2 + kC2, kA2 * kC2, v + 2);
    apply_at_both(d, kC, kA2 + kB2, kA2 * kB2, v + 4);
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

// A transform along columns, and then along rows, of matrices whose elements are 16 channels.
template <typename Transform, typename Vector, bool add = false>
INLINED void transform(const View& from, const View& to) {
  const int in = Transform::kFrom, out = Transform::kTo;
  for (int64_t lane = 0; lane < kLanes; lane += sizeof(Vector) / sizeof(float)) {
    Vector half[in][out];
#pragma GCC unroll 7
    for (int j = 0; j < in; ++j) {
      Vector column[in];
      for (int i = 0; i < in; ++i)
        column[i] = load<Vector>(from.at(i, j) + lane);
      Transform::apply(column, half[j]);
    }
#pragma GCC unroll 7
    for (int i = 0; i < out; ++i) {
      Vector row[in], result[out];
      for (int j = 0; j < in; ++j) row[j] = half[j][i];
      Transform::apply(row, result);
      for (int j = 0; j < out; ++j) {
        float* const at = to.at(i, j) + lane;
        store(add ? load<Vector>(at) + result[j] : result[j], at);
      }
    }
  }
}

// A step of the method for 16 channels: of some tiles of a map, or of a kernel, which is one tile.
struct Step {
  enum Kind {
    kInputs,           // map -> values
    kOutputs,          // values -> map
    kOutputGradients,  // map -> values
    kInputGradients,   // values, added -> map
    kWeights,          // kernel -> values
    kWeightGradients   // values -> kernel
  } kind;
  int64_t side, tiles, tiles_per_row;
  View map;     // or the kernel; an element is 16 channels
  View values;  // a row is a tile, a column is a pair of points
};

template <typename Vector, int side>
INLINED void transform_tiles(const Step& step) {
  const int size = outputs_of_tile(side);
  for (int64_t t = 0; t < step.tiles; ++t) {
    const View map = step.map.from(t / step.tiles_per_row * size, t % step.tiles_per_row * size);
    const View values = {step.values.at(t, 0), kPoints * step.values.column_stride,
                         step.values.column_stride};
    if (t + 1 < step.tiles)
      for (int i = 0; i < kValues; ++i) __builtin_prefetch(step.values.at(t + 1, i), 1);
    switch (step.kind) {
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

struct TransformTiles {
  template <typename Vector>
  static INLINED void run(const Step& step) {
    step.side == 3 ? transform_tiles<Vector, 3>(step) : transform_tiles<Vector, 5>(step);
  }
};

#pragma GCC pop_options

void transform(const Step& step) { with_vector<TransformTiles>(step); }

}  // namespace
