#include "native/kernels/onednn_matmul.h"

#include <omp.h>

#include <array>
#include <dnnl.hpp>
#include <list>
#include <map>
#include <utility>

namespace goku {
namespace {

constexpr size_t kPrimitivesMax = 512;

/// Everything a primitive depends on; threads too, since oneDNN splits the work when a primitive is made.
using Key = std::array<int64_t, 11>;

dnnl::memory::desc describe(const MatrixView& m, int64_t rows, int64_t columns) {
  const auto type = m.dtype == DType::kBf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
  return {{rows, columns}, type, {m.rowStride, m.columnStride}};
}

}  // namespace

struct OnednnMatmul::State {
  struct Entry {
    Key key;
    dnnl::matmul primitive;
    dnnl::memory a, b, c;
  };
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::list<Entry> recent;  // front: used last
  std::map<Key, std::list<Entry>::iterator> byKey;

  Entry& find(const Key& key, const MatrixOut& c, const MatrixView& a, const MatrixView& b, int64_t M,
              int64_t N, int64_t K, bool accumulate) {
    if (const auto found = byKey.find(key); found != byKey.end()) {
      recent.splice(recent.begin(), recent, found->second);
      return *found->second;
    }
    const auto aDesc = describe(a, M, K), bDesc = describe(b, K, N),
               cDesc = describe({c.data, c.dtype, N, 1}, M, N);
    dnnl::primitive_attr attributes;
    if (accumulate) {
      dnnl::post_ops ops;
      ops.append_sum(1.0f);
      attributes.set_post_ops(ops);
    }
    const dnnl::matmul::primitive_desc description({aDesc, bDesc, cDesc}, attributes, engine);
    recent.push_front({key, dnnl::matmul(description), dnnl::memory(aDesc, engine, nullptr),
                       dnnl::memory(bDesc, engine, nullptr), dnnl::memory(cDesc, engine, nullptr)});
    byKey[key] = recent.begin();
    if (recent.size() > kPrimitivesMax) {
      byKey.erase(recent.back().key);
      recent.pop_back();
    }
    return recent.front();
  }
};

OnednnMatmul::OnednnMatmul() : state_(std::make_unique<State>()) {}
OnednnMatmul::~OnednnMatmul() = default;

void OnednnMatmul::run(const MatrixOut& c, const MatrixView& a, const MatrixView& b, int64_t M, int64_t N,
                       int64_t K, bool accumulate) {
  const Key key = {M,
                   N,
                   K,
                   a.rowStride,
                   a.columnStride,
                   b.rowStride,
                   b.columnStride,
                   static_cast<int64_t>(a.dtype),
                   static_cast<int64_t>(c.dtype),
                   accumulate,
                   omp_get_max_threads()};
  try {
    State::Entry& entry = state_->find(key, c, a, b, M, N, K, accumulate);
    entry.a.set_data_handle(const_cast<void*>(a.data));
    entry.b.set_data_handle(const_cast<void*>(b.data));
    entry.c.set_data_handle(c.data);
    entry.primitive.execute(state_->stream,
                            {{DNNL_ARG_SRC, entry.a}, {DNNL_ARG_WEIGHTS, entry.b}, {DNNL_ARG_DST, entry.c}});
    state_->stream.wait();
  } catch (const dnnl::error& error) {
    const auto code = error.status == dnnl_out_of_memory ? ErrorCode::kOutOfMemory : ErrorCode::kArgument;
    throw NativeError(
        code, concat("Cannot multiply [", M, ", ", K, "] by [", K, ", ", N, "]: oneDNN: ", error.what()));
  }
}

}  // namespace goku
