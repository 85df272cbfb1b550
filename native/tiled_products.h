// The products of tiled_convolution.h: a matrix product for each pair of points.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"
#include "product.h"
#include "tiled_layout.h"

namespace {

// Rows of matrices that have a row for each tile.
struct Tiles {
  int64_t first, count;
};

// Those that have values at a pair of points.
Tiles tiles_at(const Convolution& c, int64_t images, int64_t pair) {
  const bool large_down = pair / c.points(1) >= kFewPoints;
  const bool large_across = pair % c.points(1) >= kFewPoints;
  const int64_t first = c.tiles_before(large_across ? 1 : 0);
  const int64_t end = c.tiles_before(large_down ? 2 : large_across ? 3 : kKinds);
  return {images * first, images * (end - first)};
}

// A panel of b at a pair of points; left: its first column.
struct Panel {
  int64_t pair, left;
  Tiles tiles;
};

// Behind the last pair of points is that pair again.
Panel panel_at(const Convolution& c, int64_t images, int64_t pair, int64_t left) {
  pair = std::min(pair, c.values() - 1);
  return {pair, left, tiles_at(c, images, pair)};
}

// c = a b, or c += a b, at each pair of points, for the tiles of some images.
struct PointProducts {
  PointMatrices a;
  PointPanels b;
  PointMatrices c;
  int64_t columns, length;  // length: of the sums; or a's rows, where the sums are over tiles
  bool over_tiles, add;
  int64_t first_column;  // of b, to which c's first column belongs
  int64_t first_row(const Panel& panel) const { return over_tiles ? 0 : panel.tiles.first; }
  int64_t first_of_sum(const Panel& panel) const { return over_tiles ? panel.tiles.first : 0; }
  const float* a_at(const Panel& panel) const {
    return a.first.at(first_row(panel), first_of_sum(panel)) + panel.pair * a.stride;
  }
  const float* b_at(const Panel& panel) const {
    return b.at(first_of_sum(panel), panel.left) + panel.pair * b.stride;
  }
};

// What the next panel reads is fetched while this one is multiplied; it would come from the other
// core's caches, or from memory. The first strip of rows of c fetches what b has. If the next panel
// is of another pair of points, the other strips fetch what a has there.
void fetch_next(const PointProducts& products, const Panel& panel, const Panel& next,
                int64_t width, int64_t strip, Tile* tile) {
  tile->fetch = kNothing;
  if (strip == 0) {
    tile->next = products.b_at(next);
    tile->next_row_stride = products.b.row_stride;
    tile->fetch = kNextRows;
  } else if (next.pair != panel.pair) {
    const View& a = products.a.first;
    const int64_t of_tile = std::max(a.row_stride, a.column_stride);  // a may be transposed
    const int64_t fetched = (strip - 1) * tile->depth * width;
    tile->next = products.a_at(next) + fetched;
    tile->next_row_stride = width;
    if (fetched < next.tiles.count * of_tile) tile->fetch = kNextRows;
  }
}

void multiply_panel(const PointProducts& products, const Panel& panel, const Panel& next) {
  const PointMatrices &a = products.a, &c = products.c;
  const Kernel& kernel = best_kernel();
  const int64_t third = kernel.rows / 3, left = panel.left;
  const int64_t right = std::min(products.columns, left + products.b.width);
  const int64_t rows = products.over_tiles ? products.length : panel.tiles.count;
  const float *const from_a = products.a_at(panel), *const from_b = products.b_at(panel);
  float* const to = c.first.at(products.first_row(panel), left - products.first_column) +
                    panel.pair * c.stride;
  Tile tile = {};
  tile.a_row_stride = a.first.row_stride;
  tile.a_column_stride = a.first.column_stride;
  tile.b_row_stride = products.b.row_stride;
  tile.c_row_stride = c.first.row_stride;
  tile.depth = products.over_tiles ? panel.tiles.count : products.length;
  tile.add = products.add;
  for (int64_t row = 0; row < rows; row += kernel.rows) {
    const int64_t height = std::min(kernel.rows, rows - row);
    fetch_next(products, panel, next, right - left, row / kernel.rows, &tile);
    tile.a = from_a + row * tile.a_row_stride;
    for (int64_t column = 0; column < right - left; column += 2 * kernel.width) {
      const int64_t vectors = std::min<int64_t>(2, (right - left - column) / kernel.width);
      tile.b = from_b + column;
      tile.c = to + row * tile.c_row_stride + column;
      kernel.multiply_tile(tile, in_blocks(height, third), static_cast<int>(vectors));
      tile.next += 2 * kernel.width;
    }
  }
}

// Threads share the tiles evenly, of which some pairs of points have fewer.
void multiply_at_points(const Convolution& c, int64_t images, const PointProducts& products) {
  const int64_t width = products.b.width, panels = panels_of(products.columns);
  int64_t all = 0;
  for (int64_t pair = 0; pair < c.values(); ++pair) all += tiles_at(c, images, pair).count;
  split(all * panels, [&](int64_t first, int64_t last) {
    int64_t at = 0;
    for (int64_t pair = 0; pair < c.values(); ++pair) {
      const Tiles tiles = tiles_at(c, images, pair);
      const Panel of_next_pair = panel_at(c, images, pair + 1, 0);
      for (int64_t i = 0; i < panels; ++i, at += tiles.count) {
        if (at < first || at >= last) continue;
        const Panel next = i + 1 < panels ? Panel{pair, (i + 1) * width, tiles} : of_next_pair;
        multiply_panel(products, {pair, i * width, tiles}, next);
      }
    }
  });
}

// All pairs of points, a panel on one thread.
void multiply_panel_at_points(const Convolution& c, const PointProducts& products, int64_t left) {
  for (int64_t pair = 0; pair < c.values(); ++pair)
    multiply_panel(products, panel_at(c, c.images, pair, left),
                   panel_at(c, c.images, pair + 1, left));
}

}  // namespace
