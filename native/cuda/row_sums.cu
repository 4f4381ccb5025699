#include "native/cuda/row_sums.h"

namespace goku {
namespace {

constexpr int kColumns = 32;  // of one warp, side by side in memory
constexpr int kSlices = 8;

/// grid: samples x ceil(columns / kColumns).
__global__ void foldKernel(double* sums, const float* partial, RowBlocksView rows, int64_t columns) {
  __shared__ double slices[kSlices][kColumns];
  const int64_t groups = ceilDivide(columns, kColumns);
  const int64_t sample = blockIdx.x / groups;
  const int lane = static_cast<int>(threadIdx.x) % kColumns, slice = static_cast<int>(threadIdx.x) / kColumns;
  const int64_t column = blockIdx.x % groups * kColumns + lane;
  double sum = 0;
  if (column < columns)
    for (int64_t b = rows.starts[sample] + slice; b < rows.starts[sample + 1]; b += kSlices)
      sum += static_cast<double>(partial[b * columns + column]);
  slices[slice][lane] = sum;
  __syncthreads();
  if (slice > 0 || column >= columns) return;
  for (int s = 1; s < kSlices; s++) sum += slices[s][lane];
  sums[sample * columns + column] = sum;
}

__global__ void writeModulationKernel(float* dmod, int64_t modWidth, int64_t column, const double* sums,
                                      int64_t samples, int64_t sumColumns, int64_t sumColumn, int64_t D) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= samples * D) return;
  const int64_t sample = i / D, c = i % D;
  dmod[sample * modWidth + column + c] = static_cast<float>(sums[sample * sumColumns + sumColumn + c]);
}

}  // namespace

void foldBlocks(double* sums, const float* partial, const RowBlocksView& rows, int64_t columns) {
  launch(foldKernel, "foldBlocks", {rows.samples * ceilDivide(columns, kColumns), kColumns * kSlices}, sums,
         partial, rows, columns);
}

void writeModulation(float* dmod, int64_t modWidth, int64_t column, const double* sums, int64_t samples,
                     int64_t sumColumns, int64_t sumColumn, int64_t D) {
  launch(writeModulationKernel, "writeModulation", {ceilDivide(samples * D, 256), 256}, dmod, modWidth,
         column, sums, samples, sumColumns, sumColumn, D);
}

void checkSumColumns(const char* name, int64_t columns) {
  GOKU_CHECK(columns <= kSumColumnsMax, name, ": ", columns,
             " columns are summed over rows, the CUDA backend has room for ", kSumColumnsMax);
}

RowSums::RowSums(std::span<const int32_t> offsets, int64_t columns)
    : rows_(offsets),
      columns_(columns),
      partial_(static_cast<size_t>(rows_.blocks() * columns) * sizeof(float)),
      sums_((offsets.size() - 1) * static_cast<size_t>(columns) * sizeof(double)) {}

std::vector<int32_t> UploadedRows::startsOf(std::span<const int32_t> offsets, int64_t blockRows) {
  std::vector<int32_t> starts{0};
  for (size_t s = 0; s + 1 < offsets.size(); s++) {
    const int64_t blocks = ceilDivide(offsets[s + 1] - offsets[s], blockRows);
    starts.push_back(static_cast<int32_t>(starts.back() + blocks));
  }
  return starts;
}

}  // namespace goku
