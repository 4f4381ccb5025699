// Gated residual (adaLN-zero):
//   y = x + gate_s * branch      dbranch = gate_s * dy      dgate_s = sum of dy * branch over the rows of
//   sample s
// Goku, arXiv:2502.04896, section 2.2. N rows, D columns, S samples.
#include <cmath>

#include "native/cuda/row_sums.h"
#include "native/kernels/checks.h"
#include "native/kernels/gate_residual.h"

namespace goku {
namespace {

struct Gate {
  const float* data_SW;
  int64_t width, column;
};

__global__ void __launch_bounds__(kRowThreads)
    forwardKernel(Out y_ND, In x_ND, In branch_ND, Gate mod, const int32_t* offsets, int64_t samples,
                  int64_t D) {
  const int64_t row = blockIdx.x, begin = row * D, end = begin + D;
  const float* gate = mod.data_SW + runOf(offsets, samples, row) * mod.width + mod.column;
  float x[kEight], branch[kEight];
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
    x_ND.load(begin + c, end, x);
    branch_ND.load(begin + c, end, branch);
    for (int j = 0; j < kEight && c + j < D; j++) x[j] = fmaf(gate[c + j], branch[j], x[j]);
    y_ND.store(begin + c, end, x);
  }
}

/// partial: [blocks][D], the sums of dy * branch. No thread reads what another has written: dbranch may be
/// dy.
__global__ void __launch_bounds__(kRowThreads)
    backwardKernel(Out dbranch_ND, float* partial, In dy_ND, In branch_ND, Gate mod, RowBlocksView rows,
                   int64_t D) {
  const RowBlock block = rows.at(blockIdx.x);
  const float* gate = mod.data_SW + block.sample * mod.width + mod.column;
  float dy[kEight], branch[kEight];
  for (int64_t c = threadIdx.x * kEight; c < D; c += kRowThreads * kEight) {
    float sums[kEight] = {};
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      const int64_t begin = row * D, end = begin + D;
      dy_ND.load(begin + c, end, dy);
      branch_ND.load(begin + c, end, branch);
      for (int j = 0; j < kEight && c + j < D; j++) {
        sums[j] = fmaf(dy[j], branch[j], sums[j]);
        dy[j] *= gate[c + j];
      }
      dbranch_ND.store(begin + c, end, dy);
    }
    for (int j = 0; j < kEight && c + j < D; j++) partial[int64_t{blockIdx.x} * D + c + j] = sums[j];
  }
}

}  // namespace

void gateResidualForward(const Tensor& y, const Tensor& x, const Tensor& branch, const Tensor& mod,
                         int64_t modWidth, int64_t gateColumn, std::span<const int32_t> offsets, int64_t D) {
  const char* name = "gateResidualForward";
  checks::gateResidual(name, mod, modWidth, gateColumn, offsets, D);
  checkRows(name, "y", y, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  checkRows(name, "branch", branch, offsets.back(), D);
  const Uploaded<int32_t> uploaded(offsets);
  launch(forwardKernel, name, {offsets.back(), kRowThreads}, Out(y), In(x), In(branch),
         Gate{mod.as<float>(), modWidth, gateColumn}, uploaded.data(), checks::samplesOf(offsets), D);
}

void gateResidualBackward(const Tensor& dbranch, const Tensor& dmod, const Tensor& dy, const Tensor& branch,
                          const Tensor& mod, int64_t modWidth, int64_t gateColumn,
                          std::span<const int32_t> offsets, int64_t D) {
  const char* name = "gateResidualBackward";
  checks::gateResidual(name, mod, modWidth, gateColumn, offsets, D);
  checkFloatRows(name, "dmod", dmod, checks::samplesOf(offsets), modWidth);
  checkRows(name, "dbranch", dbranch, offsets.back(), D);
  checkRows(name, "dy", dy, offsets.back(), D);
  checkRows(name, "branch", branch, offsets.back(), D);
  const RowSums sums(offsets, D);
  launch(backwardKernel, name, {sums.blocks(), kRowThreads}, Out(dbranch), sums.partial(), In(dy), In(branch),
         Gate{mod.as<float>(), modWidth, gateColumn}, sums.view(), D);
  sums.fold();
  writeModulation(dmod.as<float>(), modWidth, gateColumn, sums.sums(), checks::samplesOf(offsets), D, 0, D);
}

}  // namespace goku
