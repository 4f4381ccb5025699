// Sums over rows, for gradients of modulation vectors and of norm weights; what norms and gates share.
//
// Rows are cut into blocks as on the CPU (native/kernels/row_cut.h): a block of threads adds the rows of one,
// in order, in shared memory, where a thread owns its columns. The blocks' sums are then added in f64, always
// in the same order. No atomics: the bits are the same in every run.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "native/cuda/elements.h"
#include "native/kernels/row_cut.h"

namespace goku {

inline constexpr int kRowThreads = 128;

/// 1 / sqrt(mean(x^2) + eps) of the row of D columns that begins there, on every thread of its block:
/// RMSNorm's r.
__device__ inline float inverseRms(In x_ND, int64_t begin, int64_t D, double eps) {
  float x[kEight], total[1] = {0};
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
    x_ND.load(begin + c, begin + D, x);
    for (int j = 0; j < kEight; j++) total[0] = fmaf(x[j], x[j], total[0]);
  }
  blockSum(total);
  return static_cast<float>(1.0 / sqrt(static_cast<double>(total[0]) / static_cast<double>(D) + eps));
}

/// The samples' rows where kernels can read them.
struct RowBlocksView {
  const int32_t* offsets;  // [samples + 1] rows
  const int32_t* starts;   // [samples + 1] blocks
  int64_t samples;
  int64_t blockRows;  // of a block, at most

  __device__ RowBlock at(int64_t block) const {
    const int64_t sample = runOf(starts, samples, block);
    const int64_t first = offsets[sample] + (block - starts[sample]) * blockRows;
    const int64_t left = offsets[sample + 1] - first;
    return {sample, first, left < blockRows ? left : blockRows};
  }
};

/// sums[sample][column] = over the sample's blocks of partial[block][column], in f64; 0 for a sample without
/// rows. Every kSlices-th block is one thread's, then the slices are added in order.
void foldBlocks(double* sums, const float* partial, const RowBlocksView& rows, int64_t columns);

/// A pack's rows, cut and uploaded.
class UploadedRows {
 public:
  explicit UploadedRows(std::span<const int32_t> offsets, int64_t blockRows = kRowsPerBlock)
      : UploadedRows(offsets, startsOf(offsets, blockRows), blockRows) {}

  int64_t blocks() const { return blocks_; }
  RowBlocksView view() const { return {offsets_.data(), starts_.data(), samples_, blockRows_}; }

 private:
  static std::vector<int32_t> startsOf(std::span<const int32_t> offsets, int64_t blockRows);
  UploadedRows(std::span<const int32_t> offsets, const std::vector<int32_t>& starts, int64_t blockRows)
      : samples_(static_cast<int64_t>(offsets.size()) - 1),
        blockRows_(blockRows),
        blocks_(starts.back()),
        offsets_(offsets),
        starts_(starts) {}

  int64_t samples_, blockRows_, blocks_;
  Uploaded<int32_t> offsets_, starts_;
};

/// The same, with room for the blocks' partial sums of `columns` columns.
class RowSums {
 public:
  RowSums(std::span<const int32_t> offsets, int64_t columns);

  int64_t blocks() const { return rows_.blocks(); }
  RowBlocksView view() const { return rows_.view(); }
  float* partial() const { return partial_.as<float>(); }
  /// [samples][columns], after fold().
  const double* sums() const { return sums_.as<double>(); }
  void fold() const { foldBlocks(sums_.as<double>(), partial(), view(), columns_); }

 private:
  UploadedRows rows_;
  int64_t columns_;
  DeviceScratch partial_, sums_;
};

/// Columns that a block can add in shared memory: what every device has without being asked, and four times
/// as many on those of 2020 and newer, which are the ones that are built for.
inline constexpr int64_t kSumColumnsMax = 24576;

void checkSumColumns(const char* name, int64_t columns);

/// dmod[s, column + c] = sums[s][sumColumn + c] for c < D.
void writeModulation(float* dmod, int64_t modWidth, int64_t column, const double* sums, int64_t samples,
                     int64_t sumColumns, int64_t sumColumn, int64_t D);

}  // namespace goku
