// What attention's kernels on tensor cores share: tiles of one head in shared memory, products of a warp's 16
// rows with them, exponentials as powers of two.
//
// A block of 4 warps owns 64 rows of one head, 16 a warp (queries forward and for dq, keys for dk and dv),
// and walks over the other side's rows of the same sample, one tile after the other. D: d rounded up to 64,
// 80 or 128; the channels behind d are 0 in every tile, so they add nothing.
//
// Two stages: while tile i is computed with, tile i + 1 is copied. One barrier a tile says both that tile i
// is there for all and that all are done with tile i - 1, whose place tile i + 1 takes.
//
// Products leave their sums where mma.sync wants its first factor: a product's result, rounded to bf16, is
// the first factor of the next and never leaves the registers.
#pragma once

#include <cmath>
#include <cstdint>

#include "native/cuda/async_copy.h"
#include "native/cuda/mma.h"
#include "native/cuda/row_sums.h"

namespace goku::attention {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;
inline constexpr int kOwnRows = 16 * kWarps;
inline constexpr float kLog2E = 1.44269504f;

struct Heads {
  int64_t count;
  int width;            // d
  int64_t rowElements;  // of a token: all heads
  float scale;          // 1 / sqrt(d)
  float scaleLog2;      // log2(e) / sqrt(d)

  Heads(int64_t heads, int64_t d)
      : count(heads),
        width(static_cast<int>(d)),
        rowElements(heads * d),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(d)))),
        scaleLog2(static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(d)))) {}
};

/// Elements from one row of a tile to the next: 16 bytes more than there are. D is a multiple of 16, so a row
/// begins an odd number of 16 bytes behind the last, and the same columns of any eight rows that follow each
/// other, which is what ldmatrix reads at once, lie in all 32 banks: no conflicts.
template <int D>
constexpr int kStride = D + 8;
template <int D, int kRows>
constexpr int kTileElements = kRows* kStride<D>;

/// The other side's rows of a sample, which a block walks over: `left` of them from row `first(left)` on.
struct Walk {
  int end, count;

  __device__ Walk(const int32_t* offsets, int64_t sample)
      : end(offsets[sample + 1]), count(end - offsets[sample]) {}
  __device__ int first(int left) const { return end - left; }
};

/// Begins to copy rows [first, first + rows) of one head, which begins at x, to a tile; those of its kRows
/// that are not among them and columns from d on are 0. All threads.
template <int D, int kRows>
__device__ inline void copyTile(bf16* tile, const bf16* x, int64_t first, int rows, const Heads& heads) {
  constexpr int kChunks = D / kEight;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, c = i % kChunks * kEight;
    const bool real = row < rows && c < heads.width;
    copyAsync<16>(tile + row * kStride<D> + c, real ? x + (first + row) * heads.rowElements + c : x, real);
  }
}

__device__ inline int warpIndex() { return static_cast<int>(threadIdx.x) / 32; }
__device__ inline int laneIndex() { return static_cast<int>(threadIdx.x) % 32; }
/// Of the block's rows, that the lane's sums [2 half] and [2 half + 1] belong to.
__device__ inline int ownRow(int half) { return 16 * warpIndex() + laneGroup() + 8 * half; }

/// The warp's 16 rows of a tile as a first factor, read from shared memory at every step.
template <int D>
struct SharedRows {
  const bf16* place;

  // Matrices of a step: rows 0-7, rows 8-15, then the same of its columns 8-15.
  __device__ explicit SharedRows(const bf16* tile)
      : place(tile + (16 * warpIndex() + laneIndex() % 16) * kStride<D> + laneIndex() / 16 * 8) {}
  __device__ void at(int step, uint32_t (&a)[4]) const { loadMatrices(a, place + 16 * step); }
};

/// The same, kept in registers.
template <int D>
struct HeldRows {
  uint32_t words[D / 16][4];

  __device__ explicit HeldRows(const bf16* tile) {
    const SharedRows<D> rows(tile);
#pragma unroll
    for (int step = 0; step < D / 16; step++) rows.at(step, words[step]);
  }
  __device__ void at(int step, uint32_t (&a)[4]) const {
    for (int i = 0; i < 4; i++) a[i] = words[step][i];
  }
};

/// c[16 rows, 8 J] = rows tile^T, of the tile's first 8 J rows.
template <int D, int J, class Rows>
__device__ inline void multiplyTransposed(float (&c)[J][4], const Rows& rows, const bf16* tile) {
  static_assert(J % 2 == 0);
  const int lane = laneIndex();
#pragma unroll
  for (int j = 0; j < J; j++)
    for (int i = 0; i < 4; i++) c[j][i] = 0;
  // Matrices: eight rows of the tile, columns 0-7 and 8-15 of the step, then the same of the next eight rows.
  const bf16* place = tile + (lane / 16 * 8 + lane % 8) * kStride<D> + lane / 8 % 2 * 8;
#pragma unroll
  for (int step = 0; step < D / 16; step++) {
    uint32_t a[4];
    rows.at(step, a);
#pragma unroll
    for (int j = 0; j < J; j += 2) {
      uint32_t b[4];
      loadMatrices(b, place + 8 * j * kStride<D> + 16 * step);
      multiplyAdd(c[j], a, b[0], b[1]);
      multiplyAdd(c[j + 1], a, b[2], b[3]);
    }
  }
}

/// Scores of columns from `count` on = -infinity: their exponentials are 0.
template <int J>
__device__ inline void maskColumns(float (&scores)[J][4], int count) {
  if (count >= 8 * J) return;
#pragma unroll
  for (int j = 0; j < J; j++)
    for (int i = 0; i < 4; i++)
      if (8 * j + 2 * laneInGroup() + i % 2 >= count) scores[j][i] = -INFINITY;
}

/// sums[16 rows, D] += factors[16 rows, 8 J], rounded to bf16, times the tile's first 8 J rows.
template <int D, int J>
__device__ inline void addProduct(float (&sums)[D / 8][4], const float (&factors)[J][4], const bf16* tile) {
  static_assert(J % 2 == 0);
  const int lane = laneIndex();
#pragma unroll
  for (int step = 0; step < J / 2; step++) {
    const float(&low)[4] = factors[2 * step], (&high)[4] = factors[2 * step + 1];
    const uint32_t a[4] = {packBf16(low[0], low[1]), packBf16(low[2], low[3]), packBf16(high[0], high[1]),
                           packBf16(high[2], high[3])};
    // Matrices 0 and 1: rows 0-7 and 8-15 of the step, eight channels; 2 and 3: the next eight channels.
    const bf16* row = tile + (16 * step + lane % 16) * kStride<D> + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      loadTransposed(b, row + 8 * n);
      multiplyAdd(sums[n], a, b[0], b[1]);
      multiplyAdd(sums[n + 1], a, b[2], b[3]);
    }
  }
}

/// Writes the block's rows: sums * factor of the row's half.
template <int D>
__device__ inline void storeRows(Out to, const float (&sums)[D / 8][4], const float (&factor)[2],
                                 const RowBlock& rows, int64_t head, const Heads& heads) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (ownRow(half) >= rows.count) continue;
    const int64_t start = (rows.first + ownRow(half)) * heads.rowElements + head * heads.width;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      for (int i = 0; i < 2; i++)
        if (const int c = 8 * n + 2 * laneInGroup() + i; c < heads.width)
          to.put(start + c, sums[n][2 * half + i] * factor[half]);
  }
}

/// Runs what `forWidth` names of D = 64, 80 or 128, whichever holds d first.
template <class Run>
void forWidth(int width, const Run& run) {
  if (width <= 64) return run.template operator()<64>();
  if (width <= 80) return run.template operator()<80>();
  run.template operator()<128>();
}

}  // namespace goku::attention
