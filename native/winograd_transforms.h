// The transforms of Winograd's method, on 16 channels at a time.
//
// A convolution is a product of polynomials: in one direction, 3 weights and a gradient of 5
// outputs are the coefficients of two polynomials whose product has 7 coefficients. A polynomial
// with 7 coefficients is known by its values at 7 points, and values are multiplied one by one.
// So F(5, 3), 5 outputs of a kernel of 3, and F(3, 5) take 7 multiplications in place of 15, and
// in two directions 49 in place of 225. In the notation of Lavin and Gray, a tile of outputs is
//   Y = A^T [(G w G^T) * (B^T d B)] A        (*: value by value; d: 7x7 inputs, w: the kernel)
// G, which evaluates the weights, is Evaluate here, B^T is Interpolate and A^T is Collect. Summed
// over channels, the products in brackets are 49 matrix products of tiles by channels and channels
// by filters. Gradients are the transposes: A evaluates the output's gradient, B brings it back to
// the inputs, and G^T to the weights.
// A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308;
// S. Winograd, "Arithmetic Complexity of Computations", 1980.
//
// The points are .3, -.3, 1.75, -1.75, infinity, where the value is the highest coefficient, .875
// and -.875. They decide how much float32's rounding is enlarged: in layers like AlexNet's, of
// random values, outputs are off by 2e-7 of their size with plain sums, by 2e-6 with these points,
// and by 3e-6 with the usual 0, 1, -1, 2, -2 and infinity, which save less. Pairs without 0
// balance the points' powers and their distances.
//
// Where few outputs are left at the end of a row or a column, a tile has the first five points
// alone: F(3, 3) and F(1, 5), whose outputs are off by 1e-6. B^T divides by a point's distances to
// the others, and not G, so that the weights' values are the same for both.
//
// A whole map of 3x3 with padding of 1 takes 4 multiplications a direction, since the padding is 0,
// 16 in place of 25 in two. In one direction, with 3 weights w, inputs d, turned round to e, and
// outputs y, the sum of all w[i] e[j] y[k] with i + j + k = 3 says which products an output has. It
// is the symmetric trilinear form of a cubic, which is a sum of four cubes:
//   v1^3 + 6 v0 v1 v2 = 3/4 (l0^3 + l1^3) - 1/4 (l2^3 + l3^3), where
//   l0, l1 = v1 +- (v0 + v2) / sqrt(3) and l2, l3 = v1 +- (v0 - v2)
// So it is 3/4 l0(w) l0(e) l0(y) + 3/4 l1(w) l1(e) l1(y) - 1/4 l2(w) l2(e) l2(y) - .... Outputs are
// as exact as those of plain sums.
#pragma once

#include <cstdint>
#include <utility>

#include "product.h"

namespace {

// Points of a tile, in a direction. A tile that is a whole map has kPointsOfMap, or by Fourier's
// method kPlacesOfMap (fourier_transforms.h).
const int kMostPoints = 7, kFewPoints = 5, kPointsOfMap = 4, kPlacesOfMap = 9;
const int64_t kLanes = 16;  // channels handled together

constexpr bool is_whole_map(int points) {
  return points == kPointsOfMap || points == kPlacesOfMap;
}
// Of a tile, in a direction, for a kernel of `side`. The padding of a whole map is no loss.
constexpr int outputs_of_tile(int points, int side) {
  return points - (is_whole_map(points) ? side / 2 : side - 1);
}

#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast", "no-signed-zeros")

const float kA = 0.3f, kB = 1.75f, kC = 0.875f;  // kC: in tiles of seven points
const float kA2 = kA * kA, kB2 = kB * kB, kC2 = kC * kC;
const float kOfSum = 0.57735027f;  // 1 / sqrt(3)

// Values at the points of a polynomial with n coefficients; apply_at_both: at a point and its
// negative.
template <int n, int points>
struct Evaluate {
  static const int kFrom = n, kTo = points;
  template <typename Vector>
  static INLINED void apply_at_both(const Vector* c, float point, Vector* v) {
    const float square = point * point;
    Vector even = c[0], odd = Vector{};
    if (n > 1) odd = c[1];
    if (n > 2) even += square * c[2];
    if (n > 3) odd += square * c[3];
    if (n > 4) even += square * square * c[4];
    v[0] = even + point * odd;
    v[1] = even - point * odd;
  }
  template <typename Vector>
  static INLINED void apply(const Vector* c, Vector* v) {
    apply_at_both(c, kA, v);
    apply_at_both(c, kB, v + 2);
    v[4] = c[n - 1];
    if (points == kMostPoints) apply_at_both(c, kC, v + 5);
  }
};

// Its transpose.
template <int n, int points>
struct Collect {
  static const int kFrom = points, kTo = n;
  template <typename Vector>
  static INLINED void add_both(const Vector* v, float point, Vector* c) {
    const float square = point * point;
    const Vector even = v[0] + v[1], odd = point * (v[0] - v[1]);
    c[0] += even;
    if (n > 1) c[1] += odd;
    if (n > 2) c[2] += square * even;
    if (n > 3) c[3] += square * odd;
    if (n > 4) c[4] += square * square * even;
  }
  template <typename Vector>
  static INLINED void apply(const Vector* v, Vector* c) {
    for (int i = 0; i < n; ++i) c[i] = Vector{};
    add_both(v, kA, c);
    add_both(v + 2, kB, c);
    if (points == kMostPoints) add_both(v + 5, kC, c);
    c[n - 1] += v[4];
  }
};

// The transform of inputs that makes products of values at the points into outputs: its rows are
// the coefficients of the polynomials that are 1 at a point and 0 at all others. Those of points p
// and -p are (x + p) and (x - p) times x^4 - sum x^2 + product, of the squares of the other two
// pairs, or times x^2 - sum, of the square of the only other one.
template <int points>
struct Interpolate {
  static const int kFrom = points, kTo = points, kTop = points - 2;
  static const bool kAll = points == kMostPoints;
  static INLINED float scale(float p, float sum, float product) {
    return 1 / (2 * p * (kAll ? p * p * p * p - sum * p * p + product : p * p - sum));
  }
  // others, last: squares
  template <typename Vector>
  static INLINED void apply_at_both(const Vector* d, float point, float others, float last,
                                    Vector* v) {
    const float sum = kAll ? others + last : others, product = others * last;
    Vector odd = d[kTop] - sum * d[kTop - 2], even = d[kTop - 1] - sum * d[kTop - 3];
    if (kAll) {
      odd += product * d[1];
      even += product * d[0];
    }
    odd *= scale(point, sum, product);
    even *= point * scale(point, sum, product);
    v[0] = even + odd;
    v[1] = even - odd;
  }
  template <typename Vector>
  static INLINED void apply(const Vector* d, Vector* v) {
    apply_at_both(d, kA, kB2, kC2, v);
    apply_at_both(d, kB, kA2, kC2, v + 2);
    if (kAll) apply_at_both(d, kC, kA2, kB2, v + 5);
    v[4] = kAll ? d[points - 1] - (kA2 + kB2 + kC2) * d[4] +
                      (kA2 * kB2 + kA2 * kC2 + kB2 * kC2) * d[2] - kA2 * kB2 * kC2 * d[0]
                : d[4] - (kA2 + kB2) * d[2] + kA2 * kB2 * d[0];
  }
};

template <int points>
struct InterpolateTransposed {
  static const int kFrom = points, kTo = points, kTop = points - 2;
  static const bool kAll = points == kMostPoints;
  template <typename Vector>
  static INLINED void add_both(const Vector* v, float point, float others, float last, Vector* d) {
    const float sum = kAll ? others + last : others, product = others * last;
    const float scale = Interpolate<points>::scale(point, sum, product);
    const Vector odd = scale * (v[0] - v[1]), even = point * scale * (v[0] + v[1]);
    d[kTop] += odd;
    d[kTop - 1] += even;
    d[kTop - 2] -= sum * odd;
    d[kTop - 3] -= sum * even;
    if (kAll) {
      d[1] += product * odd;
      d[0] += product * even;
    }
  }
  template <typename Vector>
  static INLINED void apply(const Vector* v, Vector* d) {
    for (int i = 0; i < points; ++i) d[i] = Vector{};
    add_both(v, kA, kB2, kC2, d);
    add_both(v + 2, kB, kA2, kC2, d);
    if (kAll) add_both(v + 5, kC, kA2, kB2, d);
    d[0] += kAll ? -kA2 * kB2 * kC2 * v[4] : kA2 * kB2 * v[4];
    d[2] += kAll ? (kA2 * kB2 + kA2 * kC2 + kB2 * kC2) * v[4] : -(kA2 + kB2) * v[4];
    if (kAll) d[4] -= (kA2 + kB2 + kC2) * v[4];
    d[points - 1] += v[4];
  }
};

// Those of a whole map: the linear forms of weights or outputs; and of inputs, turned round, with
// the factors.
template <>
struct Evaluate<3, kPointsOfMap> {
  static const int kFrom = 3, kTo = kPointsOfMap;
  template <typename Vector>
  static INLINED void apply(const Vector* c, Vector* v) {
    const Vector sum = kOfSum * (c[0] + c[2]), difference = c[0] - c[2];
    v[0] = c[1] + sum;
    v[1] = c[1] - sum;
    v[2] = c[1] + difference;
    v[3] = c[1] - difference;
  }
};

template <>
struct Collect<3, kPointsOfMap> {
  static const int kFrom = kPointsOfMap, kTo = 3;
  template <typename Vector>
  static INLINED void apply(const Vector* v, Vector* c) {
    const Vector sum = kOfSum * (v[0] - v[1]), difference = v[2] - v[3];
    c[0] = sum + difference;
    c[1] = (v[0] + v[1]) + (v[2] + v[3]);
    c[2] = sum - difference;
  }
};

template <>
struct Interpolate<kPointsOfMap> {
  static const int kFrom = 3, kTo = kPointsOfMap;
  template <typename Vector>
  static INLINED void apply(const Vector* d, Vector* v) {
    const Vector turned[3] = {d[2], d[1], d[0]};
    Evaluate<3, kPointsOfMap>::apply(turned, v);
    for (int i = 0; i < kPointsOfMap; ++i) v[i] *= i < 2 ? .75f : -.25f;
  }
};

template <>
struct InterpolateTransposed<kPointsOfMap> {
  static const int kFrom = kPointsOfMap, kTo = 3;
  template <typename Vector>
  static INLINED void apply(const Vector* v, Vector* d) {
    Vector scaled[kPointsOfMap], turned[3];
    for (int i = 0; i < kPointsOfMap; ++i) scaled[i] = v[i] * (i < 2 ? .75f : -.25f);
    Collect<3, kPointsOfMap>::apply(scaled, turned);
    for (int i = 0; i < 3; ++i) d[i] = turned[2 - i];
  }
};

// A transform along columns, and another along rows, of matrices whose elements are 16 channels.
template <typename Down, typename Across, typename Vector, bool add = false>
INLINED void transform(const View& from, const View& to) {
  for (int64_t lane = 0; lane < kLanes; lane += sizeof(Vector) / sizeof(float)) {
    Vector half[Across::kFrom][Down::kTo];
    // Unrolled, these two loops would not fit the cache of instructions.
#pragma GCC unroll 1
    for (int j = 0; j < Across::kFrom; ++j) {
      Vector column[Down::kFrom];
      for (int i = 0; i < Down::kFrom; ++i) column[i] = load<Vector>(from.at(i, j) + lane);
      Down::apply(column, half[j]);
    }
#pragma GCC unroll 1
    for (int i = 0; i < Down::kTo; ++i) {
      Vector row[Across::kFrom], result[Across::kTo];
      for (int j = 0; j < Across::kFrom; ++j) row[j] = half[j][i];
      Across::apply(row, result);
      for (int j = 0; j < Across::kTo; ++j) {
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
  int64_t side;
  int points[2];  // of a tile, down and across
  int64_t tiles, tiles_per_row;
  View map;                                       // or the kernel; an element is 16 channels
  View values;                                    // of the first tile, at pairs of points
  int64_t next;  // from a tile's values to the next one's, 0 of a kernel
  // From tile t's values to those that come next. Those of the next 16 channels follow the last.
  int64_t ahead(int64_t t) const { return t + 1 < tiles ? next : kLanes; }
};

template <typename Vector, int side, int down, int across>
INLINED void transform_tiles(const Step& step) {
  const int rows = outputs_of_tile(down, side), columns = outputs_of_tile(across, side);
  for (int64_t t = 0; t < step.tiles; ++t) {
    const View map =
        step.map.from(t / step.tiles_per_row * rows, t % step.tiles_per_row * columns);
    View values = step.values;
    values.data += t * step.next;
    if (step.next > 0)
      for (int i = 0; i < down; ++i)
        for (int j = 0; j < across; ++j) __builtin_prefetch(values.at(i, j) + step.ahead(t), 1);
    switch (step.kind) {
      case Step::kInputs:
        transform<Interpolate<down>, Interpolate<across>, Vector>(map, values);
        break;
      case Step::kOutputs:
        transform<Collect<rows, down>, Collect<columns, across>, Vector>(values, map);
        break;
      case Step::kOutputGradients:
        transform<Evaluate<rows, down>, Evaluate<columns, across>, Vector>(map, values);
        break;
      case Step::kInputGradients:
        transform<InterpolateTransposed<down>, InterpolateTransposed<across>, Vector, true>(
            values, map);
        break;
      case Step::kWeights:
        transform<Evaluate<side, down>, Evaluate<side, across>, Vector>(map, values);
        break;
      case Step::kWeightGradients:
        transform<Collect<side, down>, Collect<side, across>, Vector>(values, map);
        break;
    }
  }
}

template <typename Vector, int side>
INLINED void transform_tiles(const Step& step) {
  if (step.points[0] == kFewPoints)
    transform_tiles<Vector, side, kFewPoints, kFewPoints>(step);
  else if (step.points[1] == kFewPoints)
    transform_tiles<Vector, side, kMostPoints, kFewPoints>(step);
  else
    transform_tiles<Vector, side, kMostPoints, kMostPoints>(step);
}

struct TransformTiles {
  template <typename Vector>
  static INLINED void run(const Step& step) {
    if (step.points[0] == kPointsOfMap)
      transform_tiles<Vector, 3, kPointsOfMap, kPointsOfMap>(step);
    else
      step.side == 3 ? transform_tiles<Vector, 3>(step) : transform_tiles<Vector, 5>(step);
  }
};

#pragma GCC pop_options

void transform_by_winograd(Step step) {
  if (step.points[0] < step.points[1]) {  // a row of tiles is a column of the transposes
    std::swap(step.points[0], step.points[1]);
    step.map = step.map.transposed();
    step.values = step.values.transposed();
    step.tiles_per_row = 1;
  }
  with_vector<TransformTiles>(step);
}

}  // namespace
