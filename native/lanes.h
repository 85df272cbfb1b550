// Converts rows of maps to 16 channels side by side, and back, by transposing squares of four
// channels by four places.
#pragma once

#include <cstdint>

#include "squares.h"
#include "winograd_transforms.h"

namespace {

// rows.get<float>(channel, place) is an element, and of Floats4 that and the three behind it.
template <typename Rows>
INLINED void rows_to_lanes(const Rows& rows, int64_t channels, int64_t places, float* to) {
  for_each_square(
      channels, places,
      [&](int64_t channel, int64_t place) INLINED_LAMBDA {
        Floats4 square[4];
        for (int i = 0; i < 4; ++i) square[i] = rows.template get<Floats4>(channel + i, place);
        transpose(square);
        for (int i = 0; i < 4; ++i) store(square[i], to + (place + i) * kLanes + channel);
      },
      [&](int64_t channel, int64_t place) INLINED_LAMBDA {
        to[place * kLanes + channel] = rows.template get<float>(channel, place);
      });
}

// rows.put(channel, place, value) takes an element, or four.
template <typename Rows>
INLINED void lanes_to_rows(const float* from, int64_t channels, int64_t places, const Rows& rows) {
  for_each_square(
      channels, places,
      [&](int64_t channel, int64_t place) INLINED_LAMBDA {
        Floats4 square[4];
        for (int i = 0; i < 4; ++i)
          square[i] = load<Floats4>(from + (place + i) * kLanes + channel);
        transpose(square);
        for (int i = 0; i < 4; ++i) rows.put(channel + i, place, square[i]);
      },
      [&](int64_t channel, int64_t place) INLINED_LAMBDA {
        rows.put(channel, place, from[place * kLanes + channel]);
      });
}

const int64_t kPlacesAhead = 64;  // how far ahead of the place in use a row is fetched

// A row of each of some channels' maps. Fetching what `get` reads of inputs gains nothing.
template <typename Float>
struct PlainRows {
  Float* data;
  int64_t map;  // from a map to the next
  template <typename Value>
  Value get(int64_t channel, int64_t place) const {
    return load<Value>(data + channel * map + place);
  }
  void fetch(int64_t channel, int64_t place) const {
    __builtin_prefetch(data + channel * map + place + kPlacesAhead);
  }
  template <typename Value>
  void put(int64_t channel, int64_t place, const Value& value) const {
    float* const at = data + channel * map + place;
    __builtin_prefetch(at + kPlacesAhead, 1);
    store(value, at);
  }
};

// With bias and relu, where `least` is 0.
struct OutputRows {
  PlainRows<float> rows;
  const float* bias;
  float least;
  template <typename Value>
  void put(int64_t channel, int64_t place, Value value) const {
    value += bias[channel];
    rows.put(channel, place, value < least ? Value{} + least : value);  // NaN stays NaN
  }
};

// Where `on` is above 0; null: everywhere.
struct GradientRows {
  PlainRows<const float> rows, on;
  template <typename Value>
  Value get(int64_t channel, int64_t place) const {
    const Value value = rows.get<Value>(channel, place);
    rows.fetch(channel, place);
    if (!on.data) return value;
    on.fetch(channel, place);
    return on.get<Value>(channel, place) > 0 ? value : Value{};
  }
};

}  // namespace
