// Packed attention, backward:
//   p = exp(q k^T / sqrt(d) - lse)     dv = p^T dout     dp = dout v^T     ds = p * (dp - rowsum(dout * out))
//   dq = ds k / sqrt(d)                dk = ds^T q / sqrt(d)
// FlashAttention, arXiv:2205.14135 and 2307.08691: p is formed again from lse, tile by tile.
//
// H heads, d (D) channels a head, E = d rounded up to whole vectors, P queries in a panel, Q queries in a
// tile, T keys in a tile, C keys in a chunk.
//
// A task is one chunk of keys of one head of one sample. It owns its rows of dk and dv and goes over the
// tiles of queries in order. dq of a tile is a sum over the chunks, always in their order: a chunk adds to a
// tile after the chunk before it has done so. Chunks follow each other through the tiles like runners at a
// small distance; nothing is computed twice, any number of threads finds work in one long sample, and the
// bits do not depend on the threads. Tasks are started in order, so the one waited for is always running.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <thread>
#include <vector>

#include "native/kernels/attention_exp.h"
#include "native/kernels/attention_tiles.h"
#include "native/parallel.h"

namespace goku::attention {
namespace {

constexpr int64_t kQueriesPerTile = 64;  // Q
constexpr int64_t kKeysPerTile = 64;     // T
static_assert(kQueriesPerTile % kPanel == 0);

/// C: K, V, dK and dV of a chunk take about 256 KiB of the second-level cache.
int64_t keysPerChunk(int64_t width) {
  const int64_t fitting = 16384 / roundUp(width, kLanes);
  return std::clamp<int64_t>(fitting / kKeysPerTile * kKeysPerTile, kKeysPerTile, 512);
}

/// One chunk of the keys of a sample; one task for every head.
struct Chunk {
  int64_t queryStart, queryCount;
  int64_t keyStart, keyCount;
  int64_t index;  // among the sample's chunks
  bool last;      // of them
  int64_t turn;   // where the sample's counters of finished tiles start: [chunk][head]
  int64_t
      partial;  // where its unfinished dq starts: [head][tile][panel][D][P]; of samples with several chunks
};

struct Plan {
  std::vector<Chunk> chunks;
  int64_t turns = 0;
  int64_t partials = 0;
};

Plan planChunks(const Shape& shape) {
  std::vector<int64_t> samples(static_cast<size_t>(shape.samples));
  std::iota(samples.begin(), samples.end(), 0);
  // Largest first, so that the threads end together.
  std::stable_sort(samples.begin(), samples.end(), [&](int64_t a, int64_t b) {
    return shape.queries(a) * shape.keys(a) > shape.queries(b) * shape.keys(b);
  });
  Plan plan;
  for (const int64_t i : samples) {
    const int64_t size = keysPerChunk(shape.width);
    const int64_t count =
        std::max<int64_t>(1, ceilDivide(shape.keys(i), size));  // without keys, dq is still due
    for (int64_t n = 0; n < count; n++) {
      plan.chunks.push_back({shape.qOffsets[i], shape.queries(i), shape.kOffsets[i] + n * size,
                             std::min(size, shape.keys(i) - n * size), n, n + 1 == count, plan.turns,
                             plan.partials});
    }
    plan.turns += count * shape.heads;
    if (count > 1) plan.partials += shape.heads * roundUp(shape.queries(i), kQueriesPerTile) * shape.width;
  }
  return plan;
}

/// What the tasks share.
struct Shared {
  const Shape& shape;
  const Inputs& in;
  const Outcome& outcome;
  const Gradients& grad;
  std::atomic<int64_t>* tilesDone;  // [turns]
  float* partial;                   // [partials]
};

/// One thread's tiles.
class Worker {
 public:
  explicit Worker(int64_t width)
      : d_(width),
        ld_(roundUp(width, kLanes)),
        scale_(1.0f / std::sqrt(static_cast<float>(width))),
        arena_(Arena::room(4 * keysPerChunk(width) * ld_, 2 * kQueriesPerTile * ld_,
                           3 * kQueriesPerTile * width, 2 * kKeysPerTile * kQueriesPerTile,
                           2 * kQueriesPerTile, ld_)),
        k_CE(arena_.take(4 * keysPerChunk(width) * ld_)),
        v_CE(k_CE + keysPerChunk(width) * ld_),
        dk_CE(v_CE + keysPerChunk(width) * ld_),
        dv_CE(dk_CE + keysPerChunk(width) * ld_),
        q_QE(arena_.take(2 * kQueriesPerTile * ld_)),
        dout_QE(q_QE + kQueriesPerTile * ld_),
        q_DP(arena_.take(3 * kQueriesPerTile * width)),
        dout_DP(q_DP + kQueriesPerTile * width),
        dq_DP(dout_DP + kQueriesPerTile * width),
        p_TP(arena_.take(2 * kKeysPerTile * kQueriesPerTile)),
        ds_TP(p_TP + kKeysPerTile * kQueriesPerTile),
        lse_Q(arena_.take(2 * kQueriesPerTile)),
        delta_Q(lse_Q + kQueriesPerTile),
        row_E(arena_.take(ld_)) {}

  void run(const Chunk& chunk, int64_t head, const Shared& shared) {
    packRows(k_CE, ld_, shared.in.k, chunk.keyStart, chunk.keyCount, head, shared.shape);
    packRows(v_CE, ld_, shared.in.v, chunk.keyStart, chunk.keyCount, head, shared.shape);
    std::fill_n(dk_CE, chunk.keyCount * ld_, 0.0f);
    std::fill_n(dv_CE, chunk.keyCount * ld_, 0.0f);
    for (int64_t start = 0; start < chunk.queryCount; start += kQueriesPerTile) {
      const int64_t count = std::min(kQueriesPerTile, chunk.queryCount - start);
      loadQueries(shared, chunk.queryStart + start, count, head);
      std::fill_n(dq_DP, kQueriesPerTile * d_, 0.0f);
      for (int64_t key = 0; key < chunk.keyCount; key += kKeysPerTile) {
        addTile(key, std::min(kKeysPerTile, chunk.keyCount - key), ceilDivide(count, kPanel));
      }
      passOnQueryGradient(chunk, head, start, count, shared);
    }
    storeKeyGradients(chunk, head, shared);
  }

 private:
  void loadQueries(const Shared& shared, int64_t first, int64_t count, int64_t head) {
    const Outcome& outcome = shared.outcome;
    packRows(q_QE, ld_, shared.in.q, first, count, head, shared.shape);
    packRows(dout_QE, ld_, outcome.dout, first, count, head, shared.shape);
    for (int64_t i = 0; i < count; i++) {
      const int64_t row = (first + i) * shared.shape.heads + head;
      lse_Q[i] = outcome.lse[row];
      delta_Q[i] = dot(dout_QE + i * ld_, outcome.out.read(row * d_, d_, row_E));
    }
    // Lanes beyond the last query: rows of zeros, and p = exp(-inf) = 0.
    const int64_t spare = roundUp(count, kPanel) - count;
    std::fill_n(q_QE + count * ld_, spare * ld_, 0.0f);
    std::fill_n(dout_QE + count * ld_, spare * ld_, 0.0f);
    std::fill_n(lse_Q + count, spare, std::numeric_limits<float>::infinity());
    std::fill_n(delta_Q + count, spare, 0.0f);
    transposeToPanels(q_DP, q_QE, ld_, count, d_);
    transposeToPanels(dout_DP, dout_QE, ld_, count, d_);
  }

  float dot(const float* a, const float* b) const {
    Vec products = {};
    forLanes(d_, [&](int64_t c, int64_t lanes) {
      products = fma(loadLanes(a + c, lanes), loadLanes(b + c, lanes), products);
    });
    return sum(products);
  }

  /// Adds to all gradients what the queries of the tile and `keys` keys from `key` on contribute.
  void addTile(int64_t key, int64_t keys, int64_t panels) {
    const float* k = k_CE + key * ld_;
    const float* v = v_CE + key * ld_;
    for (int64_t panel = 0; panel < panels; panel++) {
      const int64_t queries = panel * d_ * kPanel;
      float* p = p_TP + panel * kKeysPerTile * kPanel;
      float* ds = ds_TP + panel * kKeysPerTile * kPanel;
      multiply<2, true>(panelProduct(p, k, ld_, q_DP + queries, d_, false), keys);
      multiply<2, true>(panelProduct(ds, v, ld_, dout_DP + queries, d_, false), keys);
      differentiate(p, ds, keys, panel * kPanel);
      multiply<2, false>(panelProduct(dq_DP + queries, k, ld_, ds, keys, true), d_);
    }
    addOuter(dv_CE + key * ld_, p_TP, dout_QE, keys, panels);
    addOuter(dk_CE + key * ld_, ds_TP, q_QE, keys, panels);
  }

  /// Scores become p = exp(score / sqrt(d) - lse), and dp becomes ds = p * (dp - delta).
  void differentiate(float* p, float* ds, int64_t keys, int64_t query) const {
    const Vec lse[2] = {load(lse_Q + query), load(lse_Q + query + kLanes)};
    const Vec delta[2] = {load(delta_Q + query), load(delta_Q + query + kLanes)};
    for (int64_t key = 0; key < keys; key++, p += kPanel, ds += kPanel) {
      Vec e[2];
#pragma GCC unroll 2
      for (int v = 0; v < 2; v++) e[v] = fma(load(p + v * kLanes), broadcast(scale_), -lse[v]);
      expAll(e);
#pragma GCC unroll 2
      for (int v = 0; v < 2; v++) {
        store(p + v * kLanes, e[v]);
        store(ds + v * kLanes, e[v] * (load(ds + v * kLanes) - delta[v]));
      }
    }
  }

  /// d_TE += a^T b over the queries of the tile: a is [panel][T][P], b [Q][E].
  void addOuter(float* d_TE, const float* a_TP, const float* b_QE, int64_t keys, int64_t panels) const {
    Product product{.c = d_TE,
                    .ldc = ld_,
                    .a = a_TP,
                    .lda = kPanel,
                    .b = b_QE,
                    .ldb = ld_,
                    .steps = kPanel,
                    .blocks = panels,
                    .blockStride = kKeysPerTile * kPanel,
                    .accumulate = true};
    int64_t c = 0;
    for (; c + 2 * kLanes <= ld_; c += 2 * kLanes, product.c += 2 * kLanes, product.b += 2 * kLanes) {
      multiply<2, true>(product, keys);
    }
    if (c < ld_) multiply<1, true>(product, keys);
  }

  /// Adds what earlier chunks found for dq of the tile; the last chunk writes it out, the others leave it to
  /// the next.
  void passOnQueryGradient(const Chunk& chunk, int64_t head, int64_t start, int64_t count,
                           const Shared& shared) {
    const int64_t heads = shared.shape.heads;
    const int64_t tile = start / kQueriesPerTile;
    const int64_t tileNumbers = kQueriesPerTile * d_;
    std::atomic<int64_t>* done = shared.tilesDone + chunk.turn + chunk.index * heads + head;
    float* partial = shared.partial + chunk.partial +
                     (head * ceilDivide(chunk.queryCount, kQueriesPerTile) + tile) * tileNumbers;
    if (chunk.index > 0) {
      for (int looks = 0; (done - heads)->load(std::memory_order_acquire) <= tile; looks++) {
        if (looks > 100) std::this_thread::yield();  // more threads than cores: let the other one run
      }
      for (int64_t i = 0; i < tileNumbers; i += kLanes) store(dq_DP + i, load(partial + i) + load(dq_DP + i));
    }
    if (chunk.last) {
      for (int64_t i = 0; i < count; i++) {
        readPanelRow(row_E, dq_DP + i / kPanel * d_ * kPanel, i % kPanel, d_, scale_);
        shared.grad.dq.write(((chunk.queryStart + start + i) * heads + head) * d_, row_E, d_);
      }
    } else {
      std::copy_n(dq_DP, tileNumbers, partial);
      done->store(tile + 1, std::memory_order_release);
    }
  }

  void storeKeyGradients(const Chunk& chunk, int64_t head, const Shared& shared) {
    for (int64_t i = 0; i < chunk.keyCount * ld_; i += kLanes) store(dk_CE + i, load(dk_CE + i) * scale_);
    for (int64_t i = 0; i < chunk.keyCount; i++) {
      const int64_t start = ((chunk.keyStart + i) * shared.shape.heads + head) * d_;
      shared.grad.dk.write(start, dk_CE + i * ld_, d_);
      shared.grad.dv.write(start, dv_CE + i * ld_, d_);
    }
  }

  int64_t d_;
  int64_t ld_;  // E
  float scale_;
  Arena arena_;
  float* k_CE;
  float* v_CE;
  float* dk_CE;
  float* dv_CE;
  float* q_QE;
  float* dout_QE;
  float* q_DP;  // panel after panel, as are dout_DP and dq_DP
  float* dout_DP;
  float* dq_DP;
  float* p_TP;   // [panel][T][P], as is ds_TP
  float* ds_TP;  // first dp
  float* lse_Q;
  float* delta_Q;  // rowsum(dout * out)
  float* row_E;
};

}  // namespace

void backward(const Gradients& grad, const Outcome& outcome, const Inputs& in, const Shape& shape) {
  const Plan plan = planChunks(shape);
  const int64_t count = static_cast<int64_t>(plan.chunks.size()) * shape.heads;
  if (count == 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(threadCount(), count));
  std::unique_ptr<std::atomic<int64_t>[]> tilesDone(
      new std::atomic<int64_t>[static_cast<size_t>(plan.turns)]());
  Arena partials(Arena::room(plan.partials));
  const Shared shared{shape, in, outcome, grad, tilesDone.get(), partials.take(plan.partials)};
  std::vector<Worker> workers;  // made here: nothing may throw inside the region
  for (int i = 0; i < threads; i++) workers.emplace_back(shape.width);
  std::atomic<int64_t> next = 0;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Worker& worker = workers[static_cast<size_t>(omp_get_thread_num())];
    for (int64_t n = next.fetch_add(1); n < count; n = next.fetch_add(1)) {
      worker.run(plan.chunks[static_cast<size_t>(n / shape.heads)], n % shape.heads, shared);
    }
  }
}

}  // namespace goku::attention
