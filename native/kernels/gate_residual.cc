// Gated residual (adaLN-zero):
//   y = x + gate_s * branch      dbranch = gate_s * dy      dgate_s = sum of dy * branch over the rows of
//   sample s
// Goku, arXiv:2502.04896, section 2.2; block layout as published by its authors. N rows, D columns, S
// samples.
#include "native/kernels/gate_residual.h"

#include "native/kernels/checks.h"
#include "native/kernels/row_blocks.h"

namespace goku {
namespace {}  // namespace

void gateResidualForward(const Tensor& y, const Tensor& x, const Tensor& branch, const Tensor& mod,
                         int64_t modWidth, int64_t gateColumn, std::span<const int32_t> offsets, int64_t D) {
  const char* name = "gateResidualForward";
  checks::gateResidual(name, mod, modWidth, gateColumn, offsets, D);
  checkRows(name, "y", y, offsets.back(), D);
  checkRows(name, "x", x, offsets.back(), D);
  checkRows(name, "branch", branch, offsets.back(), D);
  const Modulation modulation{mod.as<float>(), modWidth};
  const Source residual(x), added(branch);
  const Target out(y);
  const int64_t part = Arena::room(D);
  forRowBlocks(cutRows(offsets), 3 * part, [&](const RowBlock& block, int64_t, float* scratch) {
    const float* gate = modulation.at(block.sample, gateColumn);
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      const float* x_D = residual.read(row * D, D, scratch);
      const float* branch_D = added.read(row * D, D, scratch + part);
      float* to = out.begin(row * D, scratch + 2 * part);
      forLanes(D, [&](int64_t c, int64_t lanes) {
        const Vec sum =
            fma(loadLanes(gate + c, lanes), loadLanes(branch_D + c, lanes), loadLanes(x_D + c, lanes));
        storeLanes(to + c, sum, lanes);
      });
      out.finish(row * D, to, D);
    }
  });
}

void gateResidualBackward(const Tensor& dbranch, const Tensor& dmod, const Tensor& dy, const Tensor& branch,
                          const Tensor& mod, int64_t modWidth, int64_t gateColumn,
                          std::span<const int32_t> offsets, int64_t D) {
  const char* name = "gateResidualBackward";
  checks::gateResidual(name, mod, modWidth, gateColumn, offsets, D);
  checkFloatRows(name, "dmod", dmod, static_cast<int64_t>(offsets.size()) - 1, modWidth);
  checkRows(name, "dbranch", dbranch, offsets.back(), D);
  checkRows(name, "dy", dy, offsets.back(), D);
  checkRows(name, "branch", branch, offsets.back(), D);
  const Modulation modulation{mod.as<float>(), modWidth};
  const Source gradient(dy), added(branch);
  const Target out(dbranch);
  const RowBlocks cut = cutRows(offsets);
  const int64_t part = Arena::room(D);
  Arena arena(cut.count() * part);
  float* partial = arena.take(cut.count() * part);
  forRowBlocks(cut, 3 * part, [&](const RowBlock& block, int64_t index, float* scratch) {
    float* dgate = partial + index * part;
    std::fill_n(dgate, part, 0.0f);
    const float* gate = modulation.at(block.sample, gateColumn);
    for (int64_t row = block.first; row < block.first + block.count; row++) {
      const float* dy_D = gradient.read(row * D, D, scratch);
      const float* branch_D = added.read(row * D, D, scratch + part);
      float* to = out.begin(row * D, scratch + 2 * part);
      forLanes(D, [&](int64_t c, int64_t lanes) {
        const Vec change = loadLanes(dy_D + c, lanes);
        storeLanes(dgate + c, fma(change, loadLanes(branch_D + c, lanes), loadLanes(dgate + c, lanes)),
                   lanes);
        storeLanes(to + c, change * loadLanes(gate + c, lanes), lanes);
      });
      out.finish(row * D, to, D);
    }
  });
  foldModulation(dmod.as<float>(), modWidth, cut, partial, part, D, gateColumn);
}

}  // namespace goku
