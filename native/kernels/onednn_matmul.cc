#include "native/kernels/onednn_matmul.h"

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <dnnl.hpp>
#include <list>
#include <map>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "native/kernels/scratch.h"
#include "native/parallel.h"

namespace goku {
namespace {

constexpr size_t kPrimitivesMax = 512;
// Rows of tokens, and the depth of weight gradients, are multiplied in multiples of this: their number
// changes from pack to pack, and a primitive is made for one shape.
constexpr int64_t kUnit = 64;

/// Everything a primitive depends on.
using Key = std::array<int64_t, 12>;

/// A part of C: full in one direction, a run of rows or columns in the other.
struct Part {
  int64_t row, rows, column, columns;
};

/// Cuts the longer side of C into two parts per 1024, none below 64; always the rows where the columns of B
/// lie side by side: oneDNN has no fast way to read a run of them.
struct Parts {
  int64_t rows, columns;
  bool byRows;
  int64_t length, size, count;
  Parts(int64_t rows, int64_t columns, const MatrixView& b)
      : rows(rows),
        columns(columns),
        byRows(rows >= columns || b.columnStride == 1),
        length(byRows ? rows : columns) {
    const int64_t wanted = length < 2 * kUnit ? 1 : 2 * ((length + 1023) / 1024);
    size = roundUp(ceilDivide(length, wanted), kUnit);
    count = ceilDivide(length, size);
  }
  Part at(int64_t index) const {
    const int64_t start = index * size, extent = std::min(size, length - start);
    return byRows ? Part{start, extent, 0, columns} : Part{0, rows, start, extent};
  }
};

dnnl::memory::data_type typeOf(DType dtype) {
  return dtype == DType::kBf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}
dnnl::memory::desc describe(int64_t rows, int64_t columns, DType dtype, int64_t rowStride,
                            int64_t columnStride) {
  return {{rows, columns}, typeOf(dtype), {rowStride, columnStride}};
}
std::byte* at(const void* data, DType dtype, int64_t elements) {
  return static_cast<std::byte*>(const_cast<void*>(data)) +
         elements * static_cast<int64_t>(dtypeBytes(dtype));
}

/// to[j * toStride + i] = from[i * fromStride + j] for 8 rows i and 8 columns j.
void transpose8(bf16* to, int64_t toStride, const bf16* from, int64_t fromStride) {
  __m128i a[8], b[8];
  for (int i = 0; i < 8; i++) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * fromStride));
  for (int i = 0; i < 4; i++) {
    b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
  }
  for (int half = 0; half < 8; half += 4) {
    for (int i = 0; i < 2; i++) {
      a[half + 2 * i] = _mm_unpacklo_epi32(b[half + i], b[half + i + 2]);
      a[half + 2 * i + 1] = _mm_unpackhi_epi32(b[half + i], b[half + i + 2]);
    }
  }
  for (int i = 0; i < 4; i++) {
    const __m128i low = _mm_unpacklo_epi64(a[i], a[i + 4]), high = _mm_unpackhi_epi64(a[i], a[i + 4]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i * toStride), low);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (2 * i + 1) * toStride), high);
  }
}

/// to[j * toStride + i] = from[i * columns + j] for i < rows, and 0 for rows <= i < toStride.
void transpose(bf16* to, int64_t toStride, const bf16* from, int64_t rows, int64_t columns) {
  constexpr int64_t kBlock = 64;  // columns, whose lines of `to` fill while their rows pass by
  parallelFor(columns, kBlock, [&](int64_t begin, int64_t end) {
    const int64_t fullEnd = begin + (end - begin) / 8 * 8, fullRows = rows / 8 * 8;
    for (int64_t i = 0; i < fullRows; i += 8) {
      for (int64_t j = begin; j < fullEnd; j += 8)
        transpose8(to + j * toStride + i, toStride, from + i * columns + j, columns);
    }
    for (int64_t j = begin; j < end; j++) {
      for (int64_t i = j < fullEnd ? fullRows : 0; i < rows; i++)
        to[j * toStride + i] = from[i * columns + j];
      std::fill(to + j * toStride + rows, to + (j + 1) * toStride, bf16{});
    }
  });
}

/// Makes primitives as if this process had one thread; they are run by one thread each.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

/// A primitive with what it works on.
struct Entry {
  Key key;
  bool fast;  // false: only a slow implementation exists
  dnnl::matmul primitive;
  dnnl::memory::desc a, b, c, bias, scratchpad;
};
struct Job {
  const Entry* entry;
  std::byte *a, *b, *c, *bias;
};

/// Debian 12 has oneDNN 2, Debian 13 has 3, which knows no descriptors of operations.
dnnl::matmul::primitive_desc describeMatmul(const dnnl::engine& engine, const Entry& entry, bool hasBias,
                                            const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return hasBias ? dnnl::matmul::primitive_desc(engine, entry.a, entry.b, entry.bias, entry.c, attributes)
                 : dnnl::matmul::primitive_desc(engine, entry.a, entry.b, entry.c, attributes);
#else
  const auto description = hasBias ? dnnl::matmul::desc(entry.a, entry.b, entry.bias, entry.c)
                                   : dnnl::matmul::desc(entry.a, entry.b, entry.c);
  return {description, attributes, engine};
#endif
}

}  // namespace

struct OnednnMatmul::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::list<Entry> recent;  // front: used last
  std::map<Key, std::list<Entry>::iterator> byKey;

  bool multiplyRows(const Gemm& g, Allocator& allocator);
  bool multiplyDepth(const Gemm& g, Allocator& allocator);
  bool add(std::vector<Job>& jobs, const Gemm& g, const Part& part);
  void execute(const std::vector<Job>& jobs, Allocator& allocator) const;

 private:
  const Entry& find(const Gemm& g, const Part& part);
  Entry make(const Key& key, const Gemm& g, const Part& part) const;
  void execute(const Job& job, std::byte* scratchpad) const;
};

const Entry& OnednnMatmul::State::find(const Gemm& g, const Part& part) {
  const Key key = {part.rows,
                   part.columns,
                   g.K,
                   g.a.rowStride,
                   g.a.columnStride,
                   g.b.rowStride,
                   g.b.columnStride,
                   g.N,
                   static_cast<int64_t>(g.a.dtype),
                   g.c.dtype == DType::kBf16,
                   g.accumulate,
                   g.bias == nullptr ? -1 : static_cast<int64_t>(g.bias->dtype)};
  if (const auto found = byKey.find(key); found != byKey.end()) {
    recent.splice(recent.begin(), recent, found->second);
    return recent.front();
  }
  recent.push_front(make(key, g, part));
  byKey[key] = recent.begin();
  if (recent.size() > kPrimitivesMax) {
    byKey.erase(recent.back().key);
    recent.pop_back();
  }
  return recent.front();
}

Entry OnednnMatmul::State::make(const Key& key, const Gemm& g, const Part& part) const {
  const OneThread oneThread;
  Entry entry{
      .key = key, .fast = false, .primitive = {}, .a = {}, .b = {}, .c = {}, .bias = {}, .scratchpad = {}};
  entry.a = describe(part.rows, g.K, g.a.dtype, g.a.rowStride, g.a.columnStride);
  entry.b = describe(g.K, part.columns, g.b.dtype, g.b.rowStride, g.b.columnStride);
  entry.c = describe(part.rows, part.columns, g.c.dtype, g.N, 1);
  if (g.bias != nullptr) entry.bias = describe(1, part.columns, g.bias->dtype, part.columns, 1);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (g.accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attributes.set_post_ops(ops);
  }
  try {
    const dnnl::matmul::primitive_desc made = describeMatmul(engine, entry, g.bias != nullptr, attributes);
    entry.fast = std::string_view(made.impl_info_str()).starts_with("brg");
    entry.scratchpad = made.scratchpad_desc();
    if (entry.fast) entry.primitive = dnnl::matmul(made);
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw;
  }
  return entry;
}

/// Adds the job that computes a part of g; false where oneDNN has no fast way for it.
bool OnednnMatmul::State::add(std::vector<Job>& jobs, const Gemm& g, const Part& part) {
  const Entry& entry = find(g, part);
  jobs.push_back({&entry, at(g.a.data, g.a.dtype, part.row * g.a.rowStride),
                  at(g.b.data, g.b.dtype, part.column * g.b.columnStride),
                  at(g.c.data, g.c.dtype, part.row * g.N + part.column),
                  g.bias == nullptr ? nullptr : at(g.bias->data, g.bias->dtype, part.column)});
  return entry.fast;
}

void OnednnMatmul::State::execute(const std::vector<Job>& jobs, Allocator& allocator) const {
  size_t scratchpad = 0;
  for (const Job& job : jobs) scratchpad = std::max(scratchpad, job.entry->scratchpad.get_size());
  const auto count = static_cast<int64_t>(jobs.size());
  const int threads = static_cast<int>(std::min<int64_t>(threadCount(), count));
  const Scratch memory(allocator, static_cast<size_t>(threads) * scratchpad);
  if (threads == 1) {
    const OneThread oneThread;
    for (const Job& job : jobs) execute(job, memory.data());
    return;
  }
  std::atomic<bool> failed = false;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t i = 0; i < count; i++) {
    try {
      execute(jobs[static_cast<size_t>(i)],
              memory.data() + static_cast<size_t>(omp_get_thread_num()) * scratchpad);
    } catch (...) {
      failed = true;  // no exception may leave a parallel region
    }
  }
  if (failed) throw dnnl::error(dnnl_out_of_memory, "a part failed");
}

void OnednnMatmul::State::execute(const Job& job, std::byte* scratchpad) const {
  const Entry& entry = *job.entry;
  dnnl::stream stream(engine);
  std::unordered_map<int, dnnl::memory> arguments = {
      {DNNL_ARG_SRC, {entry.a, engine, job.a}},
      {DNNL_ARG_WEIGHTS, {entry.b, engine, job.b}},
      {DNNL_ARG_DST, {entry.c, engine, job.c}},
      {DNNL_ARG_SCRATCHPAD, {entry.scratchpad, engine, scratchpad}}};
  if (job.bias != nullptr) arguments.emplace(DNNL_ARG_BIAS, dnnl::memory(entry.bias, engine, job.bias));
  entry.primitive.execute(stream, arguments);
  stream.wait();
}

/// Rows of A are tokens. Where their number is no multiple of the unit, the parts that reach beyond the last
/// row work on copies that end in zeros.
bool OnednnMatmul::State::multiplyRows(const Gemm& g, Allocator& allocator) {
  const Parts parts(roundUp(g.M, kUnit), g.N, g.b);
  const bool even = parts.rows == g.M;
  const int64_t copied = even ? g.M : parts.byRows ? parts.at(parts.count - 1).row : 0;  // from that row on
  const size_t aRow = static_cast<size_t>(g.K) * dtypeBytes(g.a.dtype);
  const size_t cRow = static_cast<size_t>(g.N) * dtypeBytes(g.c.dtype);
  const auto left = static_cast<size_t>(g.M - copied), padded = static_cast<size_t>(parts.rows - copied);
  const Scratch aCopy(allocator, even ? 0 : padded * aRow), cCopy(allocator, even ? 0 : padded * cRow);
  Gemm tail = g;
  tail.a = {aCopy.data(), g.a.dtype, g.K, 1};
  tail.c = {cCopy.data(), g.c.dtype};

  std::vector<Job> jobs;
  for (int64_t i = 0; i < parts.count; i++) {
    Part part = parts.at(i);
    const bool beyond = part.row + part.rows > g.M;
    if (beyond) part.row -= copied;
    if (!add(jobs, beyond ? tail : g, part)) return false;
  }
  std::byte* c = at(g.c.data, g.c.dtype, copied * g.N);
  if (!even) {
    for (size_t i = 0; i < left; i++) {
      const auto row = copied + static_cast<int64_t>(i);
      std::memcpy(aCopy.data() + i * aRow, at(g.a.data, g.a.dtype, row * g.a.rowStride), aRow);
    }
    std::memset(aCopy.data() + left * aRow, 0, (padded - left) * aRow);
    if (g.accumulate) std::memcpy(cCopy.data(), c, left * cRow);
  }
  execute(jobs, allocator);
  if (!even) std::memcpy(c, cCopy.data(), left * cRow);
  return true;
}

/// The depth is tokens, A is transposed. oneDNN has no fast way to read such an A: it gets a copy. The depth
/// that no unit fills is a product of its own, of copies that end in zeros.
bool OnednnMatmul::State::multiplyDepth(const Gemm& g, Allocator& allocator) {
  if (g.a.dtype != DType::kBf16 || g.a.columnStride != g.M || g.b.columnStride != 1) return false;
  const int64_t full = g.K / kUnit * kUnit, padded = roundUp(g.K, kUnit);
  const auto elements = [&](int64_t count) {
    return Scratch(allocator, static_cast<size_t>(count) * sizeof(bf16));
  };
  const Scratch a = elements(g.M * padded), b = elements(padded == full ? 0 : kUnit * g.N);
  Gemm first = g, last = g;
  first.a = {a.data(), DType::kBf16, padded, 1};
  first.K = full;
  last.a = {at(a.data(), DType::kBf16, full), DType::kBf16, padded, 1};
  last.b = {b.data(), DType::kBf16, g.N, 1};
  last.K = kUnit;
  if (full > 0) {
    last.accumulate = true;
    last.bias = nullptr;
  }

  const Parts parts(g.M, g.N, g.b);
  std::vector<Job> firstJobs, lastJobs;
  for (int64_t i = 0; i < parts.count; i++) {
    if (full > 0 && !add(firstJobs, first, parts.at(i))) return false;
    if (padded > full && !add(lastJobs, last, parts.at(i))) return false;
  }
  const auto* from = static_cast<const bf16*>(g.a.data);
  transpose(reinterpret_cast<bf16*>(a.data()), padded, from, g.K, g.M);
  if (full > 0) execute(firstJobs, allocator);
  if (padded == full) return true;
  const size_t row = static_cast<size_t>(g.N) * sizeof(bf16);
  for (int64_t i = 0; i < g.K - full; i++) {
    std::memcpy(b.data() + static_cast<size_t>(i) * row,
                at(g.b.data, DType::kBf16, (full + i) * g.b.rowStride), row);
  }
  const size_t filled = static_cast<size_t>(g.K - full) * row;
  std::memset(b.data() + filled, 0, kUnit * row - filled);
  execute(lastJobs, allocator);
  return true;
}

OnednnMatmul::OnednnMatmul()
    : state_(std::make_unique<State>()),
      bf16_(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16")) {}
OnednnMatmul::~OnednnMatmul() = default;

bool OnednnMatmul::run(const Gemm& g, Allocator& allocator) {
  // Below that, gemm() has finished before oneDNN has started.
  constexpr int64_t kSideMin = 16;
  if (g.gelu || g.M < kSideMin || g.N < kSideMin || g.K < kSideMin) return false;
  try {
    return g.a.columnStride == 1 ? state_->multiplyRows(g, allocator) : state_->multiplyDepth(g, allocator);
  } catch (const dnnl::error&) {
    throw NativeError(ErrorCode::kOutOfMemory, concat("Cannot multiply [", g.M, ", ", g.K, "] by [", g.K,
                                                      ", ", g.N, "]: oneDNN had too little memory"));
  }
}

}  // namespace goku
