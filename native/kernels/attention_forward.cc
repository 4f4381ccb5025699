// Packed attention, forward:
//   out = softmax(q k^T / sqrt(d)) v      lse = log(sum(exp(q k^T / sqrt(d))))
// FlashAttention, arXiv:2205.14135 and 2307.08691: scores exist one tile at a time and softmax is corrected
// as larger scores turn up, so memory grows with tokens and not with their square.
//
// H heads, d (D) channels a head, P queries in a panel, T keys in a tile. A task is some panels of one head
// of one sample; lanes never mix, so neither the size of a task nor the thread that runs it changes a bit.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "native/kernels/attention_exp.h"
#include "native/kernels/attention_tiles.h"
#include "native/parallel.h"

namespace goku::attention {
namespace {

constexpr int64_t kKeysPerTile = 120;       // K and V tiles of d = 64 stay in L2, the scores of a panel in L1
constexpr int64_t kQueriesPerTask = 256;    // at most: packing a tile of keys is shared by so many queries
constexpr int64_t kQueriesPerTaskMin = 64;  // where threads would otherwise be idle

struct Task {
  int64_t queryStart, queryCount;
  int64_t keyStart, keyCount;
};

/// One thread's tiles.
class Worker {
 public:
  explicit Worker(int64_t width)
      : d_(width),
        scale_(1.0f / std::sqrt(static_cast<float>(width))),
        arena_(Arena::room(2 * kKeysPerTile * width, 2 * kQueriesPerTask * width, kKeysPerTile * kPanel,
                           2 * kQueriesPerTask, kPanel * width, kPanel)),
        k_TD(arena_.take(2 * kKeysPerTile * width)),
        v_TD(k_TD + kKeysPerTile * width),
        q_DP(arena_.take(2 * kQueriesPerTask * width)),
        out_DP(q_DP + kQueriesPerTask * width),
        scores_TP(arena_.take(kKeysPerTile * kPanel)),
        state_2P(arena_.take(2 * kQueriesPerTask)),
        rows_PD(arena_.take(kPanel * width)),
        correction_P(arena_.take(kPanel)) {}

  void run(const Task& task, int64_t head, Target out, float* lse, const Inputs& in, const Shape& shape) {
    for (int64_t start = 0; start < task.queryCount; start += kPanel) {
      const int64_t count = std::min(kPanel, task.queryCount - start);
      packRows(rows_PD, d_, in.q, task.queryStart + start, count, head, shape);
      transposeToPanels(q_DP + start * d_, rows_PD, d_, count, d_);
    }
    for (int64_t start = 0; start < task.keyCount; start += kKeysPerTile) {
      const int64_t keys = std::min(kKeysPerTile, task.keyCount - start);
      packRows(k_TD, d_, in.k, task.keyStart + start, keys, head, shape);
      packRows(v_TD, d_, in.v, task.keyStart + start, keys, head, shape);
      for (int64_t query = 0; query < task.queryCount; query += kPanel) addTile(query, keys, start == 0);
    }
    storeRows(task, head, out, lse, shape);
  }

 private:
  /// Adds the keys of the tile to one panel: out = out * correction + v^T p, and its running maximum and sum.
  void addTile(int64_t query, int64_t keys, bool first) {
    float* out = out_DP + query * d_;
    multiply<2, true>(panelProduct(scores_TP, k_TD, d_, q_DP + query * d_, d_, false), keys);
    softmax(keys, first, state_2P + 2 * query);
    for (int64_t c = first ? d_ : 0; c < d_; c++) {
      for (int64_t lane = 0; lane < kPanel; lane += kLanes) {
        float* at = out + c * kPanel + lane;
        store(at, load(at) * load(correction_P + lane));
      }
    }
    multiply<2, false>(panelProduct(out, v_TD, d_, scores_TP, keys, !first), d_);
  }

  /// Scores become p = exp(score / sqrt(d) - maximum). state: the maximum so far, scaled, of each query, then
  /// the sum of its p. Fills correction_P, by which what was formed with the old maximum is to be multiplied.
  void softmax(int64_t keys, bool first, float* state) {
    Vec top[2] = {load(scores_TP), load(scores_TP + kLanes)};
    for (int64_t key = 1; key < keys; key++) {
      for (int v = 0; v < 2; v++) top[v] = max(load(scores_TP + key * kPanel + v * kLanes), top[v]);
    }
    for (int v = 0; v < 2; v++) {
      top[v] *= scale_;
      if (!first) top[v] = max(load(state + v * kLanes), top[v]);
    }
    Vec total[4] = {};  // of even keys, then of odd ones
    int64_t key = 0;
    for (; key + 2 <= keys; key += 2) exponentiate<4>(scores_TP + key * kPanel, top, total);
    if (key < keys) exponentiate<2>(scores_TP + key * kPanel, top, total);
    for (int v = 0; v < 2; v++) {
      Vec all = total[v] + total[v + 2];
      if (!first) {
        const Vec correction = expOne(load(state + v * kLanes) - top[v]);
        store(correction_P + v * kLanes, correction);
        all = fma(load(state + kPanel + v * kLanes), correction, all);
      }
      store(state + v * kLanes, top[v]);
      store(state + kPanel + v * kLanes, all);
    }
  }

  template <int kVectors>
  void exponentiate(float* scores, const Vec (&top)[2], Vec (&total)[4]) const {
    Vec p[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) p[v] = fma(load(scores + v * kLanes), broadcast(scale_), -top[v % 2]);
    expAll(p);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      store(scores + v * kLanes, p[v]);
      total[v] += p[v];
    }
  }

  void storeRows(const Task& task, int64_t head, Target out, float* lse, const Shape& shape) {
    for (int64_t i = 0; i < task.queryCount; i++) {
      const int64_t row = (task.queryStart + i) * shape.heads + head;
      const int64_t panel = i / kPanel * kPanel, lane = i % kPanel;
      if (task.keyCount == 0) {
        std::fill_n(rows_PD, d_, 0.0f);
        lse[row] = -std::numeric_limits<float>::infinity();
      } else {
        const float* state = state_2P + 2 * panel + lane;
        readPanelRow(rows_PD, out_DP + panel * d_, lane, d_, 1.0f / state[kPanel]);
        lse[row] = static_cast<float>(state[0] + std::log(static_cast<double>(state[kPanel])));
      }
      out.write(row * d_, rows_PD, d_);
    }
  }

  int64_t d_;
  float scale_;
  Arena arena_;
  float* k_TD;
  float* v_TD;
  float* q_DP;    // panel after panel, as are out_DP and state_2P
  float* out_DP;  // not yet divided by the sum of p
  float* scores_TP;
  float* state_2P;
  float* rows_PD;
  float* correction_P;
};

/// Largest first, so that the threads end together.
std::vector<Task> planTasks(const Shape& shape, int64_t queriesPerTask) {
  std::vector<Task> tasks;
  for (int64_t i = 0; i < shape.samples; i++) {
    for (int64_t start = 0; start < shape.queries(i); start += queriesPerTask) {
      const int64_t count = std::min(queriesPerTask, shape.queries(i) - start);
      tasks.push_back({shape.qOffsets[i] + start, count, shape.kOffsets[i], shape.keys(i)});
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
    return a.queryCount * a.keyCount > b.queryCount * b.keyCount;
  });
  return tasks;
}

}  // namespace

void forward(Target out, float* lse, const Inputs& in, const Shape& shape) {
  constexpr int64_t kTasksPerThread = 4;
  std::vector<Task> tasks = planTasks(shape, kQueriesPerTask);
  for (int64_t size = kQueriesPerTask / 2; size >= kQueriesPerTaskMin; size /= 2) {
    if (static_cast<int64_t>(tasks.size()) * shape.heads >= kTasksPerThread * threadCount()) break;
    tasks = planTasks(shape, size);
  }
  const int64_t count = static_cast<int64_t>(tasks.size()) * shape.heads;
  if (count == 0) return;
  const int threads = static_cast<int>(std::min<int64_t>(threadCount(), count));
  std::vector<Worker> workers;  // made here: nothing may throw inside the region
  for (int i = 0; i < threads; i++) workers.emplace_back(shape.width);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
  for (int64_t n = 0; n < count; n++) {
    Worker& worker = workers[static_cast<size_t>(omp_get_thread_num())];
    worker.run(tasks[static_cast<size_t>(n / shape.heads)], n % shape.heads, out, lse, in, shape);
  }
}

}  // namespace goku::attention
