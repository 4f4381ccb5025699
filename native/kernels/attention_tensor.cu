// Packed attention, forward, on tensor cores:
//   s = q k^T / sqrt(d),  p = softmax(s)      out = p v         lse = log(sum(exp(s)))
// FlashAttention 2, arXiv:2307.08691. N query tokens, M key tokens, H heads, d channels a head; D: d rounded
// up to 64, 80 or 128, the channels behind d are 0.
//
// A block of 4 warps has 64 queries of one head, 16 a warp; keys come in tiles of 64 through shared memory.
// Scores are where mma.sync leaves its sums, which is also where it wants p as its first factor: p never
// leaves the registers. A query's scores lie in the four lanes of a group, so its largest score and its sum
// take two exchanges. p is rounded to bf16 for the second product, and summed before that, in f32.
#include <cmath>

#include "native/cuda/mma.h"
#include "native/cuda/row_sums.h"
#include "native/kernels/attention_tensor.h"
#include "native/kernels/checks.h"

namespace goku {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kQueries = 16 * kWarps;
constexpr int kKeys = 64;
constexpr int kKeyTiles = kKeys / 8;
constexpr float kLog2E = 1.44269504f;

struct Problem {
  const bf16* q_NHd;
  const bf16* k_MHd;
  const bf16* v_MHd;
  Out out_NHd;
  float* lse_NH;
  RowBlocksView queries;
  const int32_t* keyOffsets;
  int64_t heads;
  int width;        // d
  float scaleLog2;  // log2(e) / sqrt(d): exponentials are powers of two
};

/// Elements from one row of a tile to the next: 16 bytes more than there are, so that the same columns of
/// eight rows lie in different banks.
template <int D>
constexpr int kStride = D + 8;

/// tile = rows [first, first + rows) of one head, others and columns from d on 0. All threads.
template <int D>
__device__ inline void loadTile(bf16* tile, const bf16* x, int64_t first, int rows, int64_t head,
                                const Problem& p) {
  constexpr int kChunks = D / kEight;
  for (int i = static_cast<int>(threadIdx.x); i < kKeys * kChunks; i += kThreads) {
    const int row = i / kChunks, c = i % kChunks * kEight;
    uint4 chunk = {0, 0, 0, 0};
    if (row < rows && c < p.width)
      chunk = *reinterpret_cast<const uint4*>(x + ((first + row) * p.heads + head) * p.width + c);
    *reinterpret_cast<uint4*>(tile + row * kStride<D> + c) = chunk;
  }
}

__device__ inline uint32_t wordAt(const bf16* x) { return *reinterpret_cast<const uint32_t*>(x); }

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

/// scores = q k^T; keys from `keys` on -infinity.
template <int D>
__device__ inline void scoreTile(float (&scores)[kKeyTiles][4], const uint32_t (&q)[D / 16][4],
                                 const bf16* kTile, int keys) {
  const int g = laneGroup(), t = laneInGroup();
#pragma unroll
  for (int j = 0; j < kKeyTiles; j++) {
    for (int i = 0; i < 4; i++) scores[j][i] = 0;
    const bf16* row = kTile + (8 * j + g) * kStride<D> + 2 * t;
#pragma unroll
    for (int step = 0; step < D / 16; step++)
      multiplyAdd(scores[j], q[step], wordAt(row + 16 * step), wordAt(row + 16 * step + 8));
    for (int i = 0; i < 4; i++)
      if (8 * j + 2 * t + i % 2 >= keys) scores[j][i] = -INFINITY;
  }
}

/// Scores become p; what was summed with smaller tops is corrected.
template <int D>
__device__ inline void softmaxTile(float (&scores)[kKeyTiles][4], Running<D>& run, float scaleLog2) {
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

/// out += p v.
template <int D>
__device__ inline void addValues(Running<D>& run, const float (&p)[kKeyTiles][4], const bf16* vTile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int step = 0; step < kKeys / 16; step++) {
    const float(&low)[4] = p[2 * step], (&high)[4] = p[2 * step + 1];
    const uint32_t a[4] = {packBf16(low[0], low[1]), packBf16(low[2], low[3]), packBf16(high[0], high[1]),
                           packBf16(high[2], high[3])};
    // Matrices 0 and 1: keys 0-7 and 8-15 of the step, eight channels; 2 and 3: the next eight channels.
    const bf16* row = vTile + (16 * step + lane % 16) * kStride<D> + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t v[4];
      loadTransposed(v, row + 8 * n);
      multiplyAdd(run.out[n], a, v[0], v[1]);
      multiplyAdd(run.out[n + 1], a, v[2], v[3]);
    }
  }
}

template <int D>
__device__ inline void storeRows(const Problem& p, const Running<D>& run, const RowBlock& queries,
                                 int64_t head, bool none) {
  const int t = laneInGroup();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float total = groupSum(run.total[half]);
    const int row = static_cast<int>(threadIdx.x) / 32 * 16 + laneGroup() + 8 * half;
    if (row >= queries.count) continue;
    const int64_t at = (queries.first + row) * p.heads + head;
    const float factor = none ? 0.0f : 1.0f / total;
    for (int n = 0; n < D / 8; n++)
      for (int i = 0; i < 2; i++)
        if (const int c = 8 * n + 2 * t + i; c < p.width)
          p.out_NHd.put(at * p.width + c, run.out[n][2 * half + i] * factor);
    if (t == 0)
      p.lse_NH[at] =
          none ? -INFINITY
               : static_cast<float>(static_cast<double>(run.top[half]) / static_cast<double>(kLog2E) +
                                    log(static_cast<double>(total)));
  }
}

/// Shared: tiles of keys and values; of the queries before.
template <int D>
__global__ void __launch_bounds__(kThreads) forwardKernel(Problem p) {
  GOKU_DYNAMIC_SHARED(bf16, kTile);
  bf16* vTile = kTile + kKeys * kStride<D>;
  const int64_t head = blockIdx.x % p.heads;
  const RowBlock queries = p.queries.at(blockIdx.x / p.heads);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  loadTile<D>(kTile, p.q_NHd, queries.first, static_cast<int>(queries.count), head, p);
  __syncthreads();
  uint32_t q[D / 16][4];
#pragma unroll
  for (int step = 0; step < D / 16; step++)  // matrices: rows 0-7, rows 8-15, then the same of columns 8-15
    loadMatrices(q[step], kTile + (16 * warp + lane % 16) * kStride<D> + 16 * step + lane / 16 * 8);
  const int64_t keyStart = p.keyOffsets[queries.sample], keyEnd = p.keyOffsets[queries.sample + 1];
  Running<D> run;
  for (int64_t first = keyStart; first < keyEnd; first += kKeys) {
    const int keys = static_cast<int>(keyEnd - first < kKeys ? keyEnd - first : kKeys);
    __syncthreads();  // everybody is done with the tiles before
    loadTile<D>(kTile, p.k_MHd, first, keys, head, p);
    loadTile<D>(vTile, p.v_MHd, first, keys, head, p);
    __syncthreads();
    float scores[kKeyTiles][4];
    scoreTile<D>(scores, q, kTile, keys);
    softmaxTile<D>(scores, run, p.scaleLog2);
    addValues<D>(run, scores, vTile);
  }
  storeRows<D>(p, run, queries, head, keyStart == keyEnd);
}

template <int D>
void run(const Problem& problem, int64_t blocks) {
  static_assert(kQueries == kKeys, "queries are loaded where keys will lie");
  launch(forwardKernel<D>, "attentionForward", {blocks, kThreads, 2 * kKeys * kStride<D> * sizeof(bf16)},
         problem);
}

}  // namespace

bool suitsTensorCores(const Tensor& q, const Tensor& k, const Tensor& v, int64_t width) {
  for (const Tensor* x : {&q, &k, &v})
    if (x->dtype != DType::kBf16 || reinterpret_cast<uintptr_t>(x->data) % 16 != 0) return false;
  return width % 8 == 0 && width <= 128;
}

void attentionForwardTensor(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                            const Tensor& v, std::span<const int32_t> qOffsets,
                            std::span<const int32_t> kOffsets, int64_t heads, int64_t width) {
  const UploadedRows queries(qOffsets, kQueries);
  const Uploaded<int32_t> keys(kOffsets);
  const double scale = 1.0 / std::sqrt(static_cast<double>(width));
  const Problem problem{.q_NHd = q.as<bf16>(),
                        .k_MHd = k.as<bf16>(),
                        .v_MHd = v.as<bf16>(),
                        .out_NHd = Out(out),
                        .lse_NH = lse.as<float>(),
                        .queries = queries.view(),
                        .keyOffsets = keys.data(),
                        .heads = heads,
                        .width = static_cast<int>(width),
                        .scaleLog2 = static_cast<float>(scale * 1.4426950408889634)};
  const int64_t blocks = queries.blocks() * heads;
  if (width <= 64) return run<64>(problem, blocks);
  if (width <= 80) return run<80>(problem, blocks);
  run<128>(problem, blocks);
}

}  // namespace goku
