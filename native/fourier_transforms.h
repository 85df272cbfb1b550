// The transforms of convolution by Fourier's method, on 16 channels at a time.
//
// Maps that are convolved cyclically have Fourier transforms that are multiplied one by one. With
// T = 13 places a direction, a kernel of 5 has 9 outputs that nothing wraps around. A map of real
// numbers has one real frequency and (T * T - 1) / 2 complex ones, without those that are the
// conjugates of others. A product of complex numbers is three of real ones (Gauss):
//   k1 = c (a + b), k2 = a (d - c), k3 = b (c + d): (a + i b) (c + i d) = k1 - k3 + i (k1 + k2)
// So 81 outputs of a 5x5 kernel take 253 multiplications, where Winograd's method takes 441 with 7
// points, and rounding is enlarged ten times less: no number is larger than a sum. Each weight has
// 253 values, so there have to be many images. A whole map of 7x7 with padding of 2 takes T = 9,
// and 121 multiplications: the inputs that wrap around are padding, which is 0. In the notation of
// winograd_transforms.h, B^T, A^T and G are D, the transform of real maps, or its transpose, with
// what Gauss's products take or give.
// A. Zlateski, Z. Jia, K. Li, F. Durand, "FFT Convolutions are Faster than Winograd on Modern CPUs,
// Here is Why", arXiv 1809.07851.
#pragma once

#include <cmath>
#include <cstdint>

#include "winograd_transforms.h"

namespace {

constexpr int fourier_values(int places) { return (3 * places * places - 1) / 2; }

#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast", "no-signed-zeros")

// Of 2 pi k n / T, k and n up to T / 2.
template <int T>
struct Angles {
  float cos[T / 2 + 1][T / 2 + 1], sin[T / 2 + 1][T / 2 + 1];
  Angles() {
    for (int k = 0; k <= T / 2; ++k)
      for (int n = 0; n <= T / 2; ++n) {
        const double angle = 2 * 3.14159265358979323846 * (k * n % T) / T;
        cos[k][n] = static_cast<float>(std::cos(angle));
        sin[k][n] = static_cast<float>(std::sin(angle));
      }
  }
  static const Angles kAll;
};

template <int T>
const Angles<T> Angles<T>::kAll;

// The transform of a row of L real numbers, of which those beyond L are 0, at frequencies from 0 to
// T / 2; im[0] is 0.
template <int T, int L>
struct Row {
  static const int kHalf = T / 2;
  template <typename Vector>
  static INLINED void apply(const Vector* x, Vector* re, Vector* im) {
    Vector even[kHalf + 1], odd[kHalf + 1];
    for (int n = 1; n <= kHalf && n < L; ++n) {
      even[n] = T - n < L ? x[n] + x[T - n] : x[n];
      odd[n] = T - n < L ? x[T - n] - x[n] : -x[n];
    }
#pragma GCC unroll 1
    for (int k = 0; k <= kHalf; ++k) {
      Vector r = x[0], i = Vector{};
#pragma GCC unroll 8
      for (int n = 1; n <= kHalf && n < L; ++n) {
        r += Angles<T>::kAll.cos[k][n] * even[n];
        i += Angles<T>::kAll.sin[k][n] * odd[n];
      }
      re[k] = r;
      im[k] = i;
    }
  }
  // Its transpose; im[0] does not count.
  template <typename Vector>
  static INLINED void apply_transposed(const Vector* re, const Vector* im, Vector* x) {
    Vector sum = re[0];
    for (int k = 1; k <= kHalf; ++k) sum += re[k];
    x[0] = sum;
#pragma GCC unroll 1
    for (int n = 1; n <= kHalf && n < L; ++n) {
      Vector even = re[0], odd = Vector{};
#pragma GCC unroll 8
      for (int k = 1; k <= kHalf; ++k) {
        even += Angles<T>::kAll.cos[k][n] * re[k];
        odd += Angles<T>::kAll.sin[k][n] * im[k];
      }
      x[n] = even - odd;
      if (T - n < L) x[T - n] = even + odd;
    }
  }
};

// D: calls take(f, re, im) for the complex frequencies f of a map of L x L, and last, with im = 0,
// for the real one.
template <int T, int L, typename Vector, typename Take>
INLINED void analyse(const View& map, const Take& take) {
  const int half = T / 2;
  Vector re[half + 1][L], im[half + 1][L];
#pragma GCC unroll 1
  for (int i = 0; i < L; ++i) {
    Vector x[L], r[half + 1], s[half + 1];
    for (int j = 0; j < L; ++j) x[j] = load<Vector>(map.at(i, j));
    Row<T, L>::apply(x, r, s);
    for (int k = 0; k <= half; ++k) re[k][i] = r[k], im[k][i] = s[k];
  }
  Vector pr[half + 1], pi[half + 1], qr[half + 1], qi[half + 1], real;
  int f = 0;
#pragma GCC unroll 1
  for (int k = 0; k <= half; ++k) {
    Row<T, L>::apply(re[k], pr, pi);
    Row<T, L>::apply(im[k], qr, qi);
    if (k > 0)
      take(f++, pr[0], qr[0]);
    else
      real = pr[0];
#pragma GCC unroll 1
    for (int l = 1; l <= half; ++l) {
      take(f++, pr[l] - qi[l], pi[l] + qr[l]);
      if (k > 0) take(f++, pr[l] + qi[l], qr[l] - pi[l]);  // else it is the other's conjugate
    }
  }
  take(f, real, Vector{});
}

// Its transpose: give(f, &re, &im) says what there is at a frequency.
template <int T, int L, typename Vector, bool add, typename Give>
INLINED void synthesise(const View& map, const Give& give) {
  const int half = T / 2;
  Vector re[L][half + 1], im[L][half + 1];
  Vector pr[half + 1], pi[half + 1], qr[half + 1], qi[half + 1], p[L], q[L];
  give((T * T - 1) / 2, &pr[0], &qr[0]);
  int f = 0;
#pragma GCC unroll 1
  for (int k = 0; k <= half; ++k) {
    if (k > 0) give(f++, &pr[0], &qr[0]);
#pragma GCC unroll 1
    for (int l = 1; l <= half; ++l) {
      Vector a, b, c = {}, d = {};
      give(f++, &a, &b);
      if (k > 0) give(f++, &c, &d);
      pr[l] = a + c;
      qi[l] = c - a;
      pi[l] = b - d;
      qr[l] = b + d;
    }
    Row<T, L>::apply_transposed(pr, pi, p);
    Row<T, L>::apply_transposed(qr, qi, q);
    for (int i = 0; i < L; ++i) re[i][k] = p[i], im[i][k] = q[i];
  }
#pragma GCC unroll 1
  for (int i = 0; i < L; ++i) {
    Vector x[L];
    Row<T, L>::apply_transposed(re[i], im[i], x);
    for (int j = 0; j < L; ++j)
      store(add ? load<Vector>(map.at(i, j)) + x[j] : x[j], map.at(i, j));
  }
}

// What of a product is a value: three of a complex frequency, one of the real one, whose b is 0.
template <typename Vector, int T>
struct Values {
  static const int kComplex = (T * T - 1) / 2;
  float* data;
  int64_t stride;
  INLINED static float scale(int f) { return (f == kComplex ? 1.0f : 2.0f) / (T * T); }
  INLINED float* at(int value) const { return data + value * stride; }
  INLINED void write(int f, const Vector& first, const Vector& second, const Vector& third) const {
    store(first, at(3 * f));
    if (f == kComplex) return;
    store(second, at(3 * f + 1));
    store(third, at(3 * f + 2));
  }
  INLINED void read(int f, Vector* values) const {
    for (int i = 0; i < 3; ++i)
      values[i] = f == kComplex && i > 0 ? Vector{} : load<Vector>(at(3 * f + i));
  }
};

// One tile. The inverse of D divides by T * T, and counts complex frequencies twice: the weights'
// values have both.
template <typename Vector, int side, int T>
INLINED void transform_by_fourier(Step::Kind kind, const View& map, float* data, int64_t stride) {
  const int size = outputs_of_tile(T, side);
  const Values<Vector, T> values = {data, stride};
  Vector v[3];
  switch (kind) {
    case Step::kInputs:
      analyse<T, T, Vector>(map, [&](int f, const Vector& a, const Vector& b) INLINED_LAMBDA {
        values.write(f, a + b, a, b);
      });
      break;
    case Step::kInputGradients:
      synthesise<T, T, Vector, true>(map, [&](int f, Vector* a, Vector* b) INLINED_LAMBDA {
        values.read(f, v);
        *a = v[0] + v[1];
        *b = v[0] + v[2];
      });
      break;
    case Step::kOutputs:
      synthesise<T, size, Vector, false>(map, [&](int f, Vector* a, Vector* b) INLINED_LAMBDA {
        values.read(f, v);
        *a = v[0] - v[2];
        *b = v[0] + v[1];
      });
      break;
    case Step::kOutputGradients:
      analyse<T, size, Vector>(map, [&](int f, const Vector& a, const Vector& b) INLINED_LAMBDA {
        values.write(f, a + b, b, -a);
      });
      break;
    case Step::kWeights:  // conjugates, as the kernel is not turned round
      analyse<T, side, Vector>(map, [&](int f, const Vector& a, const Vector& b) INLINED_LAMBDA {
        const Vector c = values.scale(f) * a, d = -values.scale(f) * b;
        values.write(f, c, d - c, c + d);
      });
      break;
    case Step::kWeightGradients:
      synthesise<T, side, Vector, false>(map, [&](int f, Vector* a, Vector* b) INLINED_LAMBDA {
        values.read(f, v);
        *a = values.scale(f) * (v[0] - v[1] + v[2]);
        *b = -values.scale(f) * (v[1] + v[2]);
      });
      break;
  }
}

struct TransformTilesByFourier {
  template <typename Vector, int side, int T>
  static INLINED void run_at(const Step& step) {
    const int size = outputs_of_tile(T, side);
    for (int64_t t = 0; t < step.tiles; ++t) {
      const float* const next = step.values.data + t * step.next + step.ahead(t);
      if (step.next > 0)
        for (int value = 0; value < fourier_values(T); ++value)
          __builtin_prefetch(next + value * step.values.column_stride, 1);
      for (int64_t lane = 0; lane < kLanes; lane += sizeof(Vector) / sizeof(float)) {
        View map = step.map.from(t / step.tiles_per_row * size, t % step.tiles_per_row * size);
        map.data += lane;
        transform_by_fourier<Vector, side, T>(step.kind, map,
                                              step.values.data + t * step.next + lane,
                                              step.values.column_stride);
      }
    }
  }
  template <typename Vector, int side>
  static INLINED void run_for(const Step& step) {
    if (step.points[0] == kPlacesOfMap) return run_at<Vector, side, kPlacesOfMap>(step);
    step.points[0] == 11 ? run_at<Vector, side, 11>(step) : run_at<Vector, side, 13>(step);
  }
  template <typename Vector>
  static INLINED void run(const Step& step) {
    step.side == 3 ? run_for<Vector, 3>(step) : run_for<Vector, 5>(step);
  }
};

#pragma GCC pop_options

void transform(const Step& step) {
  step.points[0] > kMostPoints ? with_vector<TransformTilesByFourier>(step)
                               : transform_by_winograd(step);
}

}  // namespace
