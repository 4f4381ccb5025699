// Rotary tables:
//   angle(token, axis a, pair j) = position_a * theta^(-2j / c_a)
// arXiv:2104.09864 in three axes as in Goku, arXiv:2502.04896, section 2.2 (rope_table.cc says more).
// The angles of every position of each axis are made on the host, in f64; a thread puts one number pair of a
// token in its place.
#include "native/cuda/elements.h"
#include "native/kernels/rope_axes.h"
#include "native/kernels/rope_table.h"

namespace goku {
namespace {

constexpr int kThreads = 256;

/// One axis after another: [positions][pairs] of each, from `starts` on.
struct Angles {
  const float* cos;
  const float* sin;
  int64_t pairs[3], starts[3];
};

__global__ void tableKernel(float* cos_ND, float* sin_ND, Angles angles, const int64_t* gridStarts,
                            const int32_t* extents_S3, int64_t samples, int64_t tokenStart, int64_t count,
                            int64_t half) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count * half) return;
  const int64_t token = tokenStart + i / half;
  const int64_t sample = runOf(gridStarts, samples, token), local = token - gridStarts[sample];
  const int64_t rows = extents_S3[3 * sample + 1], columns = extents_S3[3 * sample + 2];
  const int64_t positions[3] = {local / (rows * columns), local % (rows * columns) / columns,
                                local % columns};
  int64_t pair = i % half;
  int axis = 0;
  for (; pair >= angles.pairs[axis]; axis++) pair -= angles.pairs[axis];
  const int64_t from = angles.starts[axis] + positions[axis] * angles.pairs[axis] + pair;
  cos_ND[i] = angles.cos[from];
  sin_ND[i] = angles.sin[from];
}

}  // namespace

void ropeTable(const Tensor& cos, const Tensor& sin, std::span<const int32_t> grids, int64_t tokenStart,
               int64_t count, int64_t d, double theta) {
  const RopeAxes made(cos, sin, grids, tokenStart, count, d, theta);
  if (count == 0) return;
  std::vector<float> allCos, allSin;
  Angles angles{};
  for (size_t a = 0; a < 3; a++) {
    angles.pairs[a] = made.axes[a].pairs;
    angles.starts[a] = static_cast<int64_t>(allCos.size());
    allCos.insert(allCos.end(), made.axes[a].cos.begin(), made.axes[a].cos.end());
    allSin.insert(allSin.end(), made.axes[a].sin.begin(), made.axes[a].sin.end());
  }
  std::vector<int64_t> starts;
  for (const RopeGrid& grid : made.grids) starts.push_back(grid.start);
  starts.push_back(tokenStart + count);  // none is asked for from there on
  const Uploaded<float> uploadedCos{std::span<const float>(allCos)},
      uploadedSin{std::span<const float>(allSin)};
  const Uploaded<int64_t> uploadedStarts{std::span<const int64_t>(starts)};
  const Uploaded<int32_t> extents(grids);
  angles.cos = uploadedCos.data();
  angles.sin = uploadedSin.data();
  launch(tableKernel, "ropeTable", {ceilDivide(count * (d / 2), kThreads), kThreads}, cos.as<float>(),
         sin.as<float>(), angles, uploadedStarts.data(), extents.data(),
         static_cast<int64_t>(made.grids.size()), tokenStart, count, d / 2);
}

}  // namespace goku
