#include "native/kernels/onednn_matmul.h"

#include <omp.h>

#include <array>
#include <atomic>
#include <dnnl.hpp>
#include <list>
#include <map>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "native/parallel.h"

namespace goku {
namespace {

constexpr size_t kPrimitivesMax = 512;

/// Everything a primitive depends on.
using Key = std::array<int64_t, 12>;

/// A part of C: full in one direction, a run of rows or columns in the other.
struct Part {
  int64_t row, rows, column, columns;
};

/// Cuts the longer side of C into two parts per 1024, none below 64.
struct Parts {
  bool byRows;
  int64_t length, size, count;
  explicit Parts(const Gemm& g) : byRows(g.M >= g.N), length(byRows ? g.M : g.N) {
    const int64_t wanted = length < 128 ? 1 : 2 * ((length + 1023) / 1024);
    size = ((length + wanted - 1) / wanted + 15) / 16 * 16;
    count = (length + size - 1) / size;
  }
  Part at(int64_t index, const Gemm& g) const {
    const int64_t start = index * size, extent = std::min(size, length - start);
    return byRows ? Part{start, extent, 0, g.N} : Part{0, g.M, start, extent};
  }
};

dnnl::memory::data_type typeOf(DType dtype) {
  return dtype == DType::kBf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}
dnnl::memory::desc describe(int64_t rows, int64_t columns, DType dtype, int64_t rowStride,
                            int64_t columnStride) {
  return {{rows, columns}, typeOf(dtype), {rowStride, columnStride}};
}
void* at(const void* data, DType dtype, int64_t elements) {
  return static_cast<std::byte*>(const_cast<void*>(data)) +
         elements * static_cast<int64_t>(dtypeBytes(dtype));
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

}  // namespace

struct OnednnMatmul::State {
  struct Entry {
    Key key;
    bool fast;  // false: only a slow implementation exists
    dnnl::matmul primitive;
    dnnl::memory::desc a, b, c, bias, scratchpad;
  };
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  std::list<Entry> recent;  // front: used last
  std::map<Key, std::list<Entry>::iterator> byKey;

  const Entry& find(const Gemm& g, const Part& part) {
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

  Entry make(const Key& key, const Gemm& g, const Part& part) {
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
      const auto description = g.bias == nullptr ? dnnl::matmul::desc(entry.a, entry.b, entry.c)
                                                 : dnnl::matmul::desc(entry.a, entry.b, entry.bias, entry.c);
      const dnnl::matmul::primitive_desc made(description, attributes, engine);
      entry.fast = std::string_view(made.impl_info_str()).starts_with("brg");
      entry.scratchpad = made.scratchpad_desc();
      if (entry.fast) entry.primitive = dnnl::matmul(made);
    } catch (const dnnl::error& error) {
      if (error.status == dnnl_out_of_memory) throw;
    }
    return entry;
  }
};

OnednnMatmul::OnednnMatmul()
    : state_(std::make_unique<State>()),
      bf16_(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16")) {}
OnednnMatmul::~OnednnMatmul() = default;

bool OnednnMatmul::run(const Gemm& g, Allocator& allocator) {
  // Below that, gemm() has finished before oneDNN has started.
  constexpr int64_t kSideMin = 16;
  if (g.gelu || g.M < kSideMin || g.N < kSideMin || g.K < kSideMin) return false;
  try {
    const Parts parts(g);
    const State::Entry& full = state_->find(g, parts.at(0, g));
    const State::Entry& last = state_->find(g, parts.at(parts.count - 1, g));
    if (!full.fast || !last.fast) return false;
    const size_t scratchpad = std::max(full.scratchpad.get_size(), last.scratchpad.get_size());
    const int threads = static_cast<int>(std::min<int64_t>(threadCount(), parts.count));
    const Scratch memory(allocator, static_cast<size_t>(threads) * scratchpad);
    std::atomic<bool> failed = false;
    const auto part = [&](int64_t index) {
      const Part p = parts.at(index, g);
      const State::Entry& entry = index == parts.count - 1 ? last : full;
      const dnnl::engine& engine = state_->engine;
      const int thread = threads == 1 ? 0 : omp_get_thread_num();
      const MatrixView a = g.a, b = g.b;
      dnnl::stream stream(engine);
      std::unordered_map<int, dnnl::memory> arguments = {
          {DNNL_ARG_SRC, {entry.a, engine, at(a.data, a.dtype, p.row * a.rowStride)}},
          {DNNL_ARG_WEIGHTS, {entry.b, engine, at(b.data, b.dtype, p.column * b.columnStride)}},
          {DNNL_ARG_DST, {entry.c, engine, at(g.c.data, g.c.dtype, p.row * g.N + p.column)}},
          {DNNL_ARG_SCRATCHPAD,
           {entry.scratchpad, engine, memory.data() + static_cast<size_t>(thread) * scratchpad}}};
      if (g.bias != nullptr) {
        arguments.emplace(DNNL_ARG_BIAS,
                          dnnl::memory(entry.bias, engine, at(g.bias->data, g.bias->dtype, p.column)));
      }
      try {
        entry.primitive.execute(stream, arguments);
        stream.wait();
      } catch (const dnnl::error&) {
        failed = true;  // no exception may leave a parallel region
      }
    };
    if (threads == 1) {
      const OneThread oneThread;
      for (int64_t i = 0; i < parts.count; i++) part(i);
    } else {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
      for (int64_t i = 0; i < parts.count; i++) part(i);
    }
    if (!failed) return true;
  } catch (const dnnl::error&) {
  }
  throw NativeError(ErrorCode::kOutOfMemory, concat("Cannot multiply [", g.M, ", ", g.K, "] by [", g.K, ", ",
                                                    g.N, "]: oneDNN had too little memory"));
}

}  // namespace goku
