// Packed attention, forward and backward, f32 arithmetic, any dtype:
//   s = q k^T / sqrt(d),  p = softmax(s)      out = p v         lse = log(sum(exp(s)))
//   delta = sum over d of dout out            dv = p^T dout     ds = p (dout v^T - delta) / sqrt(d)
//   dq = ds k                                 dk = ds^T q
// FlashAttention, arXiv:2205.14135 and 2307.08691: scores exist one tile at a time. N query tokens, M key
// tokens, H heads, d channels a head.
//
// A block of 128 threads has a tile of 32 rows of one head (queries forward and for dq, keys for dk and dv):
// 4 threads a row, which share the 32 scores of a tile of the other side, then the channels of the row. Each
// gradient is summed by one thread in one order, so there are no atomics and the bits are the same in every
// run. dk and dv recompute the scores that dq needs, which costs two products of seven.
#include <cmath>

#include "native/cuda/row_sums.h"
#include "native/kernels/attention.h"
#include "native/kernels/attention_tensor.h"
#include "native/kernels/checks.h"

namespace goku {
namespace {

constexpr int kTile = static_cast<int>(kRowsPerBlock);
constexpr int kThreads = 128;
constexpr int kPerRow = kThreads / kTile;  // threads
constexpr int kOthers = kTile / kPerRow;   // of the other side's rows, a thread's scores
constexpr int kScoreStride = kTile + 1;
constexpr int kChannels = static_cast<int>(kAttentionWidthMax) / kPerRow;  // a thread's, at most

struct Heads {
  int64_t count;
  int width;    // d
  float scale;  // 1 / sqrt(d)

  /// Of the tiles in shared memory: odd, so that the same channel of 32 rows lies in 32 banks.
  __host__ __device__ int stride() const { return width + 1; }
};

/// One side's packed rows: whose they are, and where each sample's begin.
struct Packs {
  RowBlocksView own;      // the side whose tiles blocks have
  const int32_t* others;  // the other side's offsets [samples + 1]
};

/// A thread's place: row of the tile, and which of the row's threads.
struct Place {
  int row, part;
};
__device__ inline Place place() {
  return {static_cast<int>(threadIdx.x) / kPerRow, static_cast<int>(threadIdx.x) % kPerRow};
}

/// tile = rows [first, first + rows) of one head, f32; rows behind are 0. All threads.
__device__ inline void loadTile(float* tile, In x, int64_t first, int64_t rows, int64_t head,
                                const Heads& heads) {
  const int groups = (heads.width + kEight - 1) / kEight;
  float numbers[kEight];
  for (int i = static_cast<int>(threadIdx.x); i < kTile * groups; i += kThreads) {
    const int row = i / groups, c = i % groups * kEight;
    const int64_t start = ((first + row) * heads.count + head) * heads.width;
    if (row < rows) x.load(start + c, start + heads.width, numbers);
    for (int j = 0; j < kEight && c + j < heads.width; j++)
      tile[row * heads.stride() + c + j] = row < rows ? numbers[j] : 0.0f;
  }
}

__device__ inline float dot(const float* a, const float* b, int width) {
  float sum = 0;
  for (int c = 0; c < width; c++) sum = fmaf(a[c], b[c], sum);
  return sum;
}

/// sums[i] of channel part + kPerRow i = correction * itself + sum over the tile's rows of factors[row]
/// x[row, channel].
__device__ inline void addProducts(float (&sums)[kChannels], float correction, const float* factors,
                                   const float* x, int part, const Heads& heads) {
#pragma unroll
  for (int i = 0; i < kChannels; i++) {
    const int c = part + kPerRow * i;
    if (c >= heads.width) break;
    float sum = sums[i] * correction;
#pragma unroll 4  // whole, 64 channels of it would be minutes of compiling
    for (int row = 0; row < kTile; row++) sum = fmaf(factors[row], x[row * heads.stride() + c], sum);
    sums[i] = sum;
  }
}

__device__ inline void storeRow(Out to, int64_t row, int64_t head, const float (&sums)[kChannels],
                                float factor, int part, const Heads& heads) {
#pragma unroll
  for (int i = 0; i < kChannels; i++) {
    const int c = part + kPerRow * i;
    if (c >= heads.width) break;
    to.put((row * heads.count + head) * heads.width + c, sums[i] * factor);
  }
}

/// Shared: q, k, v tiles and scores.
__global__ void __launch_bounds__(kThreads)
    forwardKernel(Out out, float* lse_NH, In q, In k, In v, Packs packs, Heads heads) {
  GOKU_DYNAMIC_SHARED(float, shared);
  float* qTile = shared;
  float* kTileAt = qTile + kTile * heads.stride();
  float* vTile = kTileAt + kTile * heads.stride();
  const auto [row, part] = place();
  float* scores = vTile + kTile * heads.stride() + row * kScoreStride;
  const int64_t head = blockIdx.x % heads.count;
  const RowBlock queries = packs.own.at(blockIdx.x / heads.count);
  const int64_t keyEnd = packs.others[queries.sample + 1];
  loadTile(qTile, q, queries.first, queries.count, head, heads);
  float sums[kChannels] = {}, top = -INFINITY, total = 0;
  for (int64_t first = packs.others[queries.sample]; first < keyEnd; first += kTile) {
    const int keys = static_cast<int>(keyEnd - first < kTile ? keyEnd - first : kTile);
    __syncthreads();  // everybody is done with the tiles before
    loadTile(kTileAt, k, first, keys, head, heads);
    loadTile(vTile, v, first, keys, head, heads);
    __syncthreads();
    for (int i = part * kOthers; i < (part + 1) * kOthers; i++)
      scores[i] = heads.scale * dot(qTile + row * heads.stride(), kTileAt + i * heads.stride(), heads.width);
    __syncwarp();  // a row's threads are in one warp
    float newTop = top;
    for (int i = 0; i < keys; i++) newTop = fmaxf(newTop, scores[i]);
    __syncwarp();
    for (int i = part * kOthers; i < (part + 1) * kOthers; i++)
      scores[i] = i < keys ? expf(scores[i] - newTop) : 0.0f;
    __syncwarp();
    const float correction = expf(top - newTop);  // 0 at first: top is -infinity
    total *= correction;
    for (int i = 0; i < keys; i++) total += scores[i];
    addProducts(sums, correction, scores, vTile, part, heads);
    top = newTop;
  }
  if (row >= queries.count) return;
  const int64_t token = queries.first + row;
  const bool none = packs.others[queries.sample] == keyEnd;
  storeRow(out, token, head, sums, none ? 0.0f : 1.0f / total, part, heads);
  if (part == 0)
    lse_NH[token * heads.count + head] =
        none ? -INFINITY : static_cast<float>(static_cast<double>(top) + log(static_cast<double>(total)));
}

/// delta[n, h] = sum over d of dout out; a warp a row and head.
__global__ void __launch_bounds__(kThreads)
    deltaKernel(float* delta_NH, In dout, In out, int64_t rows, int width) {
  const int64_t at = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  float sum = 0;
  if (at < rows)
    for (int c = static_cast<int>(threadIdx.x) % 32; c < width; c += 32)
      sum = fmaf(dout.at(at * width + c), out.at(at * width + c), sum);
  for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lane);
  if (at < rows && threadIdx.x % 32 == 0) delta_NH[at] = sum;
}

/// What backward needs of the forward pass.
struct Outcome {
  In dout;
  const float* lse_NH;
  const float* delta_NH;
};

/// Shared: q, dout, k, v tiles and ds.
__global__ void __launch_bounds__(kThreads)
    queryGradientKernel(Out dq, Outcome outcome, In q, In k, In v, Packs packs, Heads heads) {
  GOKU_DYNAMIC_SHARED(float, shared);
  const int tile = kTile * heads.stride();
  float *qTile = shared, *doutTile = shared + tile, *kTileAt = shared + 2 * tile, *vTile = shared + 3 * tile;
  const auto [row, part] = place();
  float* ds = shared + 4 * tile + row * kScoreStride;
  const int64_t head = blockIdx.x % heads.count;
  const RowBlock queries = packs.own.at(blockIdx.x / heads.count);
  const int64_t keyEnd = packs.others[queries.sample + 1];
  const int64_t token = queries.first + row;
  const bool real = row < queries.count;
  const float lse = real ? outcome.lse_NH[token * heads.count + head] : 0.0f;
  const float delta = real ? outcome.delta_NH[token * heads.count + head] : 0.0f;
  loadTile(qTile, q, queries.first, queries.count, head, heads);
  loadTile(doutTile, outcome.dout, queries.first, queries.count, head, heads);
  float sums[kChannels] = {};
  for (int64_t first = packs.others[queries.sample]; first < keyEnd; first += kTile) {
    const int keys = static_cast<int>(keyEnd - first < kTile ? keyEnd - first : kTile);
    __syncthreads();
    loadTile(kTileAt, k, first, keys, head, heads);
    loadTile(vTile, v, first, keys, head, heads);
    __syncthreads();
    for (int i = part * kOthers; i < (part + 1) * kOthers; i++) {
      const int at = row * heads.stride(), other = i * heads.stride();
      const float p = expf(heads.scale * dot(qTile + at, kTileAt + other, heads.width) - lse);
      const float dp = dot(doutTile + at, vTile + other, heads.width);
      ds[i] = real && i < keys ? p * (dp - delta) * heads.scale : 0.0f;
    }
    __syncwarp();
    addProducts(sums, 1.0f, ds, kTileAt, part, heads);
  }
  if (real) storeRow(dq, token, head, sums, 1.0f, part, heads);
}

/// Shared: k, v, q, dout tiles, p and ds, lse and delta of the queries.
__global__ void __launch_bounds__(kThreads)
    keyGradientKernel(Out dk, Out dv, Outcome outcome, In q, In k, In v, Packs packs, Heads heads) {
  GOKU_DYNAMIC_SHARED(float, shared);
  const int tile = kTile * heads.stride();
  float *kTileAt = shared, *vTile = shared + tile, *qTile = shared + 2 * tile, *doutTile = shared + 3 * tile;
  float* lse = shared + 4 * tile;
  float* delta = lse + kTile;
  const auto [row, part] = place();
  float* p = delta + kTile + row * kScoreStride;
  float* ds = p + kTile * kScoreStride;
  const int64_t head = blockIdx.x % heads.count;
  const RowBlock keys = packs.own.at(blockIdx.x / heads.count);
  const int64_t queryEnd = packs.others[keys.sample + 1];
  loadTile(kTileAt, k, keys.first, keys.count, head, heads);
  loadTile(vTile, v, keys.first, keys.count, head, heads);
  float dkSums[kChannels] = {}, dvSums[kChannels] = {};
  for (int64_t first = packs.others[keys.sample]; first < queryEnd; first += kTile) {
    const int queries = static_cast<int>(queryEnd - first < kTile ? queryEnd - first : kTile);
    __syncthreads();
    loadTile(qTile, q, first, queries, head, heads);
    loadTile(doutTile, outcome.dout, first, queries, head, heads);
    if (const int i = static_cast<int>(threadIdx.x); i < queries) {
      lse[i] = outcome.lse_NH[(first + i) * heads.count + head];
      delta[i] = outcome.delta_NH[(first + i) * heads.count + head];
    }
    __syncthreads();
    for (int i = part * kOthers; i < (part + 1) * kOthers; i++) {
      const int at = row * heads.stride(), other = i * heads.stride();
      if (i >= queries) {
        p[i] = ds[i] = 0;
        continue;
      }
      p[i] = expf(heads.scale * dot(qTile + other, kTileAt + at, heads.width) - lse[i]);
      ds[i] = p[i] * (dot(doutTile + other, vTile + at, heads.width) - delta[i]) * heads.scale;
    }
    __syncwarp();
    addProducts(dvSums, 1.0f, p, doutTile, part, heads);
    addProducts(dkSums, 1.0f, ds, qTile, part, heads);
  }
  if (row >= keys.count) return;
  storeRow(dk, keys.first + row, head, dkSums, 1.0f, part, heads);
  storeRow(dv, keys.first + row, head, dvSums, 1.0f, part, heads);
}

Heads headsOf(const checks::AttentionShape& shape) {
  return {shape.heads, static_cast<int>(shape.width),
          static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.width)))};
}

/// Bytes of shared memory for so many tiles, score tiles and other numbers.
size_t sharedBytes(const Heads& heads, int tiles, int scores, int numbers = 0) {
  return sizeof(float) *
         static_cast<size_t>(kTile * (tiles * heads.stride() + scores * kScoreStride) + numbers);
}

}  // namespace

void attentionForward(const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v,
                      std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets, int64_t heads,
                      int64_t width) {
  const char* name = "attentionForward";
  const checks::AttentionShape shape(name, qOffsets, kOffsets, heads, width, kAttentionWidthMax);
  shape.forward(name, out, lse, q, k, v);
  if (heads == 0) return;
  if (suitsTensorCores({&q, &k, &v}, width))
    return attentionForwardTensor(out, lse, q, k, v, qOffsets, kOffsets, heads, width);
  const UploadedRows queries(qOffsets);
  const Uploaded<int32_t> keys(kOffsets);
  const Heads each = headsOf(shape);
  launch(forwardKernel, name, {queries.blocks() * heads, kThreads, sharedBytes(each, 3, 1)}, Out(out),
         lse.as<float>(), In(q), In(k), In(v), Packs{queries.view(), keys.data()}, each);
}

void attentionBackward(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Tensor& dout,
                       const Tensor& out, const Tensor& lse, const Tensor& q, const Tensor& k,
                       const Tensor& v, std::span<const int32_t> qOffsets, std::span<const int32_t> kOffsets,
                       int64_t heads, int64_t width) {
  const char* name = "attentionBackward";
  const checks::AttentionShape shape(name, qOffsets, kOffsets, heads, width, kAttentionWidthMax);
  shape.backward(name, dq, dk, dv, dout, out, lse, q, k, v);
  if (heads == 0) return;
  const Heads each = headsOf(shape);
  const int64_t rows = qOffsets.back() * heads;
  const DeviceScratch delta(static_cast<size_t>(rows) * sizeof(float));
  launch(deltaKernel, name, {ceilDivide(rows, kThreads / 32), kThreads}, delta.as<float>(), In(dout), In(out),
         rows, each.width);
  if (suitsTensorCores({&dout, &q, &k, &v}, width))
    return attentionBackwardTensor(dq, dk, dv, dout, lse, delta.as<float>(), q, k, v, qOffsets, kOffsets,
                                   heads, width);
  const UploadedRows queries(qOffsets), keys(kOffsets);
  const Outcome outcome{In(dout), lse.as<float>(), delta.as<float>()};
  launch(queryGradientKernel, name, {queries.blocks() * heads, kThreads, sharedBytes(each, 4, 1)}, Out(dq),
         outcome, In(q), In(k), In(v), Packs{queries.view(), keys.view().offsets}, each);
  launch(keyGradientKernel, name, {keys.blocks() * heads, kThreads, sharedBytes(each, 4, 2, 2 * kTile)},
         Out(dk), Out(dv), outcome, In(q), In(k), In(v), Packs{keys.view(), queries.view().offsets}, each);
}

}  // namespace goku
