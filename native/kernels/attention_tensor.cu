// Packed attention, forward, on tensor cores:
//   s = q k^T / sqrt(d),  p = softmax(s)      out = p v         lse = log(sum(exp(s)))
// FlashAttention 2, arXiv:2307.08691. N query tokens, M key tokens, H heads, d channels a head; tiles and
// products: attention_tensor_tiles.h.
//
// A query's scores lie in the four lanes of a group, so its largest score and its sum take two exchanges. p
// is rounded to bf16 for the second product, and summed before that, in f32.
#include "native/kernels/attention_tensor.h"
#include "native/kernels/attention_tensor_tiles.h"

namespace goku {
namespace attention {
namespace {

constexpr int kKeys = 64;  // of a tile
constexpr int kKeyTiles = kKeys / 8;

struct ForwardProblem {
  const bf16* q_NHd;
  const bf16* k_MHd;
  const bf16* v_MHd;
  Out out_NHd;
  float* lse_NH;
  RowBlocksView queries;
  const int32_t* keyOffsets;
  Heads heads;
};

/// Over the four lanes of a group.
__device__ inline float groupMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float groupSum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// What a warp carries from tile to tile; of rows g and g + 8 of its 16 queries.
template <int D>
struct Running {
  float out[D / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY};  // largest score, times scaleLog2
  float total[2] = {0, 0};                // this lane's part of the sum of p
};

/// Scores become p, those of keys from `keys` on 0; what was summed with smaller tops is corrected.
template <int D>
__device__ inline void softmaxTile(float (&scores)[kKeyTiles][4], Running<D>& run, int keys,
                                   float scaleLog2) {
  maskColumns(scores, keys);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float top = -INFINITY;
    for (int j = 0; j < kKeyTiles; j++) top = fmaxf(top, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
    top = fmaxf(run.top[half], groupMax(top) * scaleLog2);
    const float correction = exp2f(run.top[half] - top);  // 0 at first: run.top is -infinity, and top is not
    run.top[half] = top;
    run.total[half] *= correction;
    for (int n = 0; n < D / 8; n++)
      for (int i = 0; i < 2; i++) run.out[n][2 * half + i] *= correction;
    for (int j = 0; j < kKeyTiles; j++)
      for (int i = 0; i < 2; i++) {
        float& score = scores[j][2 * half + i];
        score = exp2f(fmaf(score, scaleLog2, -top));
        run.total[half] += score;
      }
  }
}

template <int D>
__device__ inline void finish(const ForwardProblem& p, const Running<D>& run, const RowBlock& queries,
                              int64_t head, bool none) {
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float total = groupSum(run.total[half]);
    factor[half] = none ? 0.0f : 1.0f / total;
    if (laneInGroup() == 0 && ownRow(half) < queries.count)
      p.lse_NH[(queries.first + ownRow(half)) * p.heads.count + head] =
          none ? -INFINITY
               : static_cast<float>(static_cast<double>(run.top[half]) / static_cast<double>(kLog2E) +
                                    log(static_cast<double>(total)));
  }
  storeRows<D>(p.out_NHd, run.out, factor, queries, head, p.heads);
}

/// Shared: two stages of keys and values; the queries before, where the second stage's keys will lie.
template <int D>
constexpr int kForwardElements = 4 * kTileElements<D, kKeys>;

/// Blocks a processor that registers are to have room for. For d up to 64 the compiler would save for a
/// fourth by spilling; 0: as it likes.
template <int D>
constexpr int kBlocksMin = D == 64 ? 3 : 0;

template <int D>
__global__ void __launch_bounds__(kThreads, kBlocksMin<D>) forwardKernel(ForwardProblem p) {
  GOKU_DYNAMIC_SHARED(bf16, shared);
  constexpr int kTile = kTileElements<D, kKeys>;
  const int64_t head = blockIdx.x % p.heads.count, offset = head * p.heads.width;
  const RowBlock queries = p.queries.at(blockIdx.x / p.heads.count);
  const Walk keys(p.keyOffsets, queries.sample);
  const auto copyStage = [&](int stage, int left) {
    bf16* tiles = shared + 2 * stage * kTile;
    copyTile<D, kKeys>(tiles, p.k_MHd + offset, keys.first(left), left, p.heads);
    copyTile<D, kKeys>(tiles + kTile, p.v_MHd + offset, keys.first(left), left, p.heads);
    commitCopies();
  };
  copyTile<D, kOwnRows>(shared + 2 * kTile, p.q_NHd + offset, queries.first, static_cast<int>(queries.count),
                        p.heads);
  copyStage(0, keys.count);
  waitCopies<0>();
  __syncthreads();
  const HeldRows<D> q(shared + 2 * kTile);
  Running<D> run;
  int stage = 0;
  for (int left = keys.count; left > 0; left -= kKeys) {
    waitCopies<0>();
    __syncthreads();
    if (left > kKeys) copyStage(1 - stage, left - kKeys);
    const bf16* tiles = shared + 2 * stage * kTile;
    float scores[kKeyTiles][4];
    multiplyTransposed<D>(scores, q, tiles);
    softmaxTile<D>(scores, run, left, p.heads.scaleLog2);
    addProduct<D>(run.out, scores, tiles + kTile);
    stage = 1 - stage;
  }
  finish<D>(p, run, queries, head, keys.count == 0);
}

}  // namespace
}  // namespace attention

bool suitsTensorCores(std::initializer_list<const Tensor*> inputs, int64_t width) {
  for (const Tensor* x : inputs)
    if (x->dtype != DType::kBf16 || reinterpret_cast<uintptr_t>(x->data) % 16 != 0) return false;
  return width % 8 == 0 && width <= 128;
}

void attentionForwardTensor(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                            const Tensor& v, std::span<const int32_t> qOffsets,
                            std::span<const int32_t> kOffsets, int64_t heads, int64_t width) {
  const UploadedRows queries(qOffsets, attention::kOwnRows);
  const Uploaded<int32_t> keys(kOffsets);
  const attention::ForwardProblem problem{.q_NHd = q.as<bf16>(),
                                          .k_MHd = k.as<bf16>(),
                                          .v_MHd = v.as<bf16>(),
                                          .out_NHd = Out(out),
                                          .lse_NH = lse.as<float>(),
                                          .queries = queries.view(),
                                          .keyOffsets = keys.data(),
                                          .heads = {heads, width}};
  attention::forWidth(width, [&]<int D>() {
    launch(attention::forwardKernel<D>, "attentionForward",
           {queries.blocks() * heads, attention::kThreads, attention::kForwardElements<D> * sizeof(bf16)},
           problem);
  });
}

}  // namespace goku
