// Rows of packed samples, cut into blocks of a fixed size: what norms and gates share.
//
// A block lies in one sample and is done by one thread. Sums over rows (gradients of modulation and of norm
// weights) are formed inside a block in row order, then over blocks in order, in f64: the bits do not depend
// on threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "native/kernels/row_cut.h"
#include "native/kernels/rows.h"
#include "native/kernels/scratch.h"
#include "native/parallel.h"

namespace goku {

/// Calls body(block, its index, scratch) for every block; scratch: scratchCount floats of the calling thread,
/// 64-byte aligned, contents undefined. The body must not throw.
template <class Body>
void forRowBlocks(const RowBlocks& cut, int64_t scratchCount, const Body& body) {
  if (cut.count() == 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(threadCount(), cut.count()));
  const int64_t stride = Arena::room(scratchCount);
  Arena arena(threads * stride);
  float* scratch = arena.take(threads * stride);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t b = 0; b < cut.count(); b++) {
    body(cut.blocks[static_cast<size_t>(b)], b, scratch + omp_get_thread_num() * stride);
  }
}

/// Sums over a row of `count` numbers: body(i, lanes, sums) adds lanes [i, i + lanes) to each Vec of sums.
/// Four sets of sums are kept, so that additions do not wait for each other; lanes behind the row must add 0.
template <int kSums, class Body>
inline void sumRow(int64_t count, float (&out)[kSums], const Body& body) {
  constexpr int kSets = 4;
  Vec sums[kSets][kSums] = {};
  int64_t i = 0;
  for (; i + kSets * kLanes <= count; i += kSets * kLanes) {
#pragma GCC unroll 4
    for (int set = 0; set < kSets; set++) body(i + set * kLanes, kLanes, sums[set]);
  }
  for (; i + kLanes <= count; i += kLanes) body(i, kLanes, sums[0]);
  if (i < count) body(i, count - i, sums[1]);
  for (int s = 0; s < kSums; s++) out[s] = sum((sums[0][s] + sums[1][s]) + (sums[2][s] + sums[3][s]));
}

/// v with the lanes from `lanes` on set to 0.
inline Vec keepLanes(Vec v, int64_t lanes) {
  if (lanes == kLanes) return v;
  float all[kLanes];
  store(all, v);
  return loadPart(all, lanes);
}

/// Sums of columns over blocks: calls use(first, count, sums) with f64 sums[0 .. count) of columns first ..
/// first + count - 1 over blocks [begin, end) of partial, whose rows are `stride` apart.
template <class Use>
inline void foldBlocks(const float* partial, int64_t stride, int64_t begin, int64_t end, int64_t columns,
                       const Use& use) {
  constexpr int64_t kColumns = 64;
  for (int64_t first = 0; first < columns; first += kColumns) {
    const int64_t count = std::min(kColumns, columns - first);
    double sums[kColumns] = {};
    for (int64_t b = begin; b < end; b++) {
      const float* row = partial + b * stride + first;
      for (int64_t c = 0; c < count; c++) sums[c] += static_cast<double>(row[c]);
    }
    use(first, count, sums);
  }
}

/// dmod[s, column + c] = sum over the blocks of sample s of their partial sums: 0 for a sample without rows.
inline void foldModulation(float* dmod, int64_t modWidth, const RowBlocks& cut, const float* partial,
                           int64_t stride, int64_t columns, int64_t column) {
  const int64_t samples = static_cast<int64_t>(cut.starts.size()) - 1;
  parallelFor(samples, 1, [&](int64_t s, int64_t) {
    const size_t i = static_cast<size_t>(s);
    foldBlocks(partial, stride, cut.starts[i], cut.starts[i + 1], columns,
               [&](int64_t first, int64_t count, const double* sums) {
                 float* to = dmod + s * modWidth + column + first;
                 for (int64_t c = 0; c < count; c++) to[c] = static_cast<float>(sums[c]);
               });
  });
}

/// Modulation vectors: mod[S, width] f32, and where the columns of one operation start in a row.
struct Modulation {
  const float* data;
  int64_t width;

  const float* at(int64_t sample, int64_t column) const { return data + sample * width + column; }
};

}  // namespace goku
