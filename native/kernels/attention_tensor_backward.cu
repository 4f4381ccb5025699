// Packed attention, backward, on tensor cores:
//   p = exp(q k^T / sqrt(d) - lse)     dv = p^T dout     ds = p (dout v^T - delta)
//   dq = ds k / sqrt(d)                dk = ds^T q / sqrt(d)
// FlashAttention 2, arXiv:2307.08691. N query tokens, M key tokens, H heads, d channels a head; tiles and
// products: attention_tensor_tiles.h. p and ds are rounded to bf16 as factors; all sums are f32.
//
// Two kernels. One owns queries, walks over keys and sums dq (s, dp, dq: three products); the other owns
// keys, walks over queries and sums dk and dv (four). Seven, where one kernel that also adds to dq has five:
// the two that are done twice cost less than dq's way through memory, and every gradient is summed by one
// warp, in one order, without scratch and without blocks that wait for each other (docs/cuda.md has the
// numbers).
//
// The kernel that owns keys computes transposed scores, so that p^T and ds^T lie where dv and dk want them.
#include "native/kernels/attention_tensor.h"
#include "native/kernels/attention_tensor_tiles.h"

namespace goku {
namespace attention {
namespace {

struct BackwardProblem {
  const bf16* q_NHd;
  const bf16* k_MHd;
  const bf16* v_MHd;
  const bf16* dout_NHd;
  Out dq_NHd, dk_MHd, dv_MHd;
  const float* lse_NH;
  const float* delta_NH;
  RowBlocksView own;      // the side whose rows blocks own
  const int32_t* others;  // the other side's offsets [samples + 1]
  Heads heads;
};

/// exp(score / sqrt(d) - lse).
__device__ inline float probability(float score, float lse, float scaleLog2) {
  return exp2f(fmaf(score, scaleLog2, -kLog2E * lse));
}

// dq: a block owns queries.

constexpr int kKeys = 64;        // of a tile
constexpr int kKeysAtOnce = 32;  // scores of more would not fit into the registers beside q, dout and dq

/// Shared: two stages of keys and values; q and dout before, where the second stage will lie.
template <int D>
constexpr int kQueryGradientElements = 4 * kTileElements<D, kKeys>;

template <int D>
__global__ void __launch_bounds__(kThreads) queryGradientKernel(BackwardProblem p) {
  GOKU_DYNAMIC_SHARED(bf16, shared);
  static_assert(kKeys == kOwnRows, "q and dout are loaded where keys and values will lie");
  constexpr int kTile = kTileElements<D, kKeys>, kParts = kKeysAtOnce / 8;
  const int64_t head = blockIdx.x % p.heads.count, offset = head * p.heads.width;
  const RowBlock queries = p.own.at(blockIdx.x / p.heads.count);
  const Walk keys(p.others, queries.sample);
  const auto copyStage = [&](int stage, int left) {
    bf16* tiles = shared + 2 * stage * kTile;
    copyTile<D, kKeys>(tiles, p.k_MHd + offset, keys.first(left), left, p.heads);
    copyTile<D, kKeys>(tiles + kTile, p.v_MHd + offset, keys.first(left), left, p.heads);
    commitCopies();
  };
  bf16* const qTile = shared + 2 * kTile;
  const int own = static_cast<int>(queries.count);
  copyTile<D, kOwnRows>(qTile, p.q_NHd + offset, queries.first, own, p.heads);
  copyTile<D, kOwnRows>(qTile + kTile, p.dout_NHd + offset, queries.first, own, p.heads);
  copyStage(0, keys.count);
  float lse[2] = {}, delta[2] = {};
  for (int half = 0; half < 2; half++)
    if (ownRow(half) < own) {
      const int64_t at = (queries.first + ownRow(half)) * p.heads.count + head;
      lse[half] = p.lse_NH[at];
      delta[half] = p.delta_NH[at];
    }
  waitCopies<0>();
  __syncthreads();
  const HeldRows<D> q(qTile), dout(qTile + kTile);
  float dq[D / 8][4] = {};
  int stage = 0;
  for (int left = keys.count; left > 0; left -= kKeys) {
    waitCopies<0>();
    __syncthreads();
    if (left > kKeys) copyStage(1 - stage, left - kKeys);
#pragma unroll 1
    for (int part = 0; part < kKeys && part < left; part += kKeysAtOnce) {
      const bf16* kPart = shared + 2 * stage * kTile + part * kStride<D>;
      float scores[kParts][4], ds[kParts][4];
      multiplyTransposed<D>(scores, q, kPart);
      maskColumns(scores, left - part);
      multiplyTransposed<D>(ds, dout, kPart + kTile);
#pragma unroll
      for (int j = 0; j < kParts; j++)
        for (int i = 0; i < 4; i++)
          ds[j][i] = probability(scores[j][i], lse[i / 2], p.heads.scaleLog2) * (ds[j][i] - delta[i / 2]);
      addProduct<D>(dq, ds, kPart);
    }
    stage = 1 - stage;
  }
  storeRows<D>(p.dq_NHd, dq, {p.heads.scale, p.heads.scale}, queries, head, p.heads);
}

// dk and dv: a block owns keys.

constexpr int kQueries = 32;  // of a tile: with more, fewer blocks would share a processor's shared memory

/// Shared: the block's keys and values; two stages of q, dout, lse and delta.
template <int D>
struct KeyGradientShared {
  static constexpr int kOwn = kTileElements<D, kOwnRows>;
  static constexpr int kTile = kTileElements<D, kQueries>;
  static constexpr int kStage = 2 * kTile + 2 * kQueries * 2;  // of bf16; an f32 takes two
  static constexpr size_t kBytes = (2 * kOwn + 2 * kStage) * sizeof(bf16);

  bf16 *k, *v, *stages;

  __device__ explicit KeyGradientShared(bf16* shared) : k(shared), v(shared + kOwn), stages(v + kOwn) {}
  __device__ bf16* q(int stage) const { return stages + stage * kStage; }
  __device__ bf16* dout(int stage) const { return q(stage) + kTile; }
  __device__ float* lse(int stage) const { return reinterpret_cast<float*>(q(stage) + 2 * kTile); }
  __device__ float* delta(int stage) const { return lse(stage) + kQueries; }
};

template <int D>
__global__ void __launch_bounds__(kThreads) keyGradientKernel(BackwardProblem p) {
  GOKU_DYNAMIC_SHARED(bf16, start);
  constexpr int kParts = kQueries / 8;
  const KeyGradientShared<D> shared(start);
  const int64_t head = blockIdx.x % p.heads.count, offset = head * p.heads.width;
  const RowBlock keys = p.own.at(blockIdx.x / p.heads.count);
  const Walk queries(p.others, keys.sample);
  const auto copyStage = [&](int stage, int left) {
    copyTile<D, kQueries>(shared.q(stage), p.q_NHd + offset, queries.first(left), left, p.heads);
    copyTile<D, kQueries>(shared.dout(stage), p.dout_NHd + offset, queries.first(left), left, p.heads);
    // Behind the last query lse is infinity: p is 0 there, and so is ds.
    if (const int i = static_cast<int>(threadIdx.x); i < kQueries) {
      const int64_t at = i < left ? int64_t{queries.first(left) + i} * p.heads.count + head : 0;
      if (i < left) {
        copyAsync<4>(shared.lse(stage) + i, p.lse_NH + at, true);
      } else {
        shared.lse(stage)[i] = INFINITY;
      }
      copyAsync<4>(shared.delta(stage) + i, p.delta_NH + at, i < left);
    }
    commitCopies();
  };
  const int own = static_cast<int>(keys.count);
  if (queries.count > 0) {
    copyTile<D, kOwnRows>(shared.k, p.k_MHd + offset, keys.first, own, p.heads);
    copyTile<D, kOwnRows>(shared.v, p.v_MHd + offset, keys.first, own, p.heads);
    copyStage(0, queries.count);
  }
  const SharedRows<D> k(shared.k), v(shared.v);
  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
  int stage = 0;
  for (int left = queries.count; left > 0; left -= kQueries) {
    waitCopies<0>();
    __syncthreads();
    if (left > kQueries) copyStage(1 - stage, left - kQueries);
    const float* lse = shared.lse(stage) + 2 * laneInGroup();
    const float* delta = shared.delta(stage) + 2 * laneInGroup();
    float weights[kParts][4], ds[kParts][4];
    multiplyTransposed<D>(weights, k, shared.q(stage));
    multiplyTransposed<D>(ds, v, shared.dout(stage));
#pragma unroll
    for (int j = 0; j < kParts; j++)
      for (int i = 0; i < 4; i++) {
        weights[j][i] = probability(weights[j][i], lse[8 * j + i % 2], p.heads.scaleLog2);
        ds[j][i] = weights[j][i] * (ds[j][i] - delta[8 * j + i % 2]);
      }
    addProduct<D>(dv, weights, shared.dout(stage));
    addProduct<D>(dk, ds, shared.q(stage));
    stage = 1 - stage;
  }
  storeRows<D>(p.dv_MHd, dv, {1.0f, 1.0f}, keys, head, p.heads);
  storeRows<D>(p.dk_MHd, dk, {p.heads.scale, p.heads.scale}, keys, head, p.heads);
}

}  // namespace
}  // namespace attention

void attentionBackwardTensor(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                             const Tensor& lse, const float* delta_NH, const Tensor& q, const Tensor& k,
                             const Tensor& v, std::span<const int32_t> qOffsets,
                             std::span<const int32_t> kOffsets, int64_t heads, int64_t width) {
  const UploadedRows queries(qOffsets, attention::kOwnRows), keys(kOffsets, attention::kOwnRows);
  attention::BackwardProblem problem{.q_NHd = q.as<bf16>(),
                                     .k_MHd = k.as<bf16>(),
                                     .v_MHd = v.as<bf16>(),
                                     .dout_NHd = dout.as<bf16>(),
                                     .dq_NHd = Out(dq),
                                     .dk_MHd = Out(dk),
                                     .dv_MHd = Out(dv),
                                     .lse_NH = lse.as<float>(),
                                     .delta_NH = delta_NH,
                                     .own = queries.view(),
                                     .others = keys.view().offsets,
                                     .heads = {heads, width}};
  const char* name = "attentionBackward";
  attention::forWidth(width, [&]<int D>() {
    launch(
        attention::queryGradientKernel<D>, name,
        {queries.blocks() * heads, attention::kThreads, attention::kQueryGradientElements<D> * sizeof(bf16)},
        problem);
    problem.own = keys.view();
    problem.others = queries.view().offsets;
    launch(attention::keyGradientKernel<D>, name,
           {keys.blocks() * heads, attention::kThreads, attention::KeyGradientShared<D>::kBytes}, problem);
  });
}

}  // namespace goku
