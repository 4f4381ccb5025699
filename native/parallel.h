// Threads. Work is cut into blocks of a fixed size and a block is always done by one thread in one call, so
// results do not depend on how many threads there are: anything reduced is reduced inside a block, then over
// blocks in order.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace goku {

/// Threads that a parallel loop of the calling thread would use (threadsSet).
inline int threadCount() { return omp_get_max_threads(); }

/// Calls body(begin, end) for [0, block), [block, 2 block), ... up to count; each thread takes a contiguous
/// run of blocks. The body must not throw. One block, or one thread: no parallel region is opened.
template <class Body>
void parallelFor(int64_t count, int64_t block, const Body& body) {
  if (count <= 0) return;
  const int64_t blocks = (count + block - 1) / block;
  const int threads = static_cast<int>(std::min<int64_t>(threadCount(), blocks));
  if (threads <= 1 || omp_in_parallel()) {
    for (int64_t b = 0; b < blocks; b++) body(b * block, std::min(count, (b + 1) * block));
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t b = 0; b < blocks; b++) body(b * block, std::min(count, (b + 1) * block));
}

/// As parallelFor, but blocks go to whichever thread is free: for blocks of unequal cost.
template <class Body>
void parallelForDynamic(int64_t count, int64_t block, const Body& body) {
  if (count <= 0) return;
  const int64_t blocks = (count + block - 1) / block;
  const int threads = static_cast<int>(std::min<int64_t>(threadCount(), blocks));
  if (threads <= 1 || omp_in_parallel()) {
    for (int64_t b = 0; b < blocks; b++) body(b * block, std::min(count, (b + 1) * block));
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t b = 0; b < blocks; b++) body(b * block, std::min(count, (b + 1) * block));
}

/// Sum of body(begin, end) -> double over the blocks of parallelFor, added in block order.
template <class Body>
double parallelSum(int64_t count, int64_t block, const Body& body) {
  if (count <= 0) return 0;
  const int64_t blocks = (count + block - 1) / block;
  if (blocks == 1) return 0.0 + body(int64_t{0}, count);
  std::vector<double> partial(static_cast<size_t>(blocks));
  parallelFor(count, block, [&](int64_t begin, int64_t end) {
    partial[static_cast<size_t>(begin / block)] = body(begin, end);
  });
  double sum = 0;
  for (double p : partial) sum += p;
  return sum;
}

/// Elements per block for elementwise kernels: small enough to share out, large enough to amortise a region.
inline constexpr int64_t kElementBlock = 16384;

}  // namespace goku
