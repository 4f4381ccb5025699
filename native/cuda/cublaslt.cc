#include "native/cuda/cublaslt.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include "native/cuda/device.h"
#include "native/cuda/library.h"

namespace goku {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA advises for Hopper

void check(cublasStatus_t status, const char* what, const MatrixProduct& p) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw NativeError(ErrorCode::kDevice, concat("Cannot multiply ", p.m, " x ", p.k, " by ", p.k, " x ", p.n,
                                               " of ", dtypeName(p.operands), ": cuBLASLt status ",
                                               static_cast<int>(status), " at ", what));
}

cudaDataType_t typeOf(DType dtype) { return dtype == DType::kBf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// What an address is a multiple of, as far as the library cares.
uint32_t alignmentOf(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address);
  return static_cast<uint32_t>(std::min<uintptr_t>(bits & (~bits + 1), 256));
}

/// One of the library's objects, given back at the end.
template <class Handle>
class Owned {
 public:
  Owned(Handle handle, cublasStatus_t (*destroy)(Handle)) : handle_(handle), destroy_(destroy) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)), destroy_(other.destroy_) {}
  ~Owned() {
    if (handle_ != nullptr) destroy_(handle_);
  }
  Owned& operator=(const Owned&) = delete;
  Handle get() const { return handle_; }

 private:
  Handle handle_;
  cublasStatus_t (*destroy_)(Handle);
};

}  // namespace

/// The loaded library, its handle, and the algorithms that were chosen.
class CublasLt::Library {
 public:
  Library() : library_(concat("libcublasLt.so.", CUBLAS_VER_MAJOR), "nvidia-cublas") {
    const size_t found = symbol<decltype(cublasLtGetVersion)>("cublasLtGetVersion")();
    const size_t major = found / (found >= 100000 ? 10000 : 1000);
    if (major != CUBLAS_VER_MAJOR)
      throw NativeError(ErrorCode::kDevice,
                        concat("Cannot use cuBLASLt ", found, ": goku_cuda was built for ", CUBLAS_VER_MAJOR,
                               ".x, install that"));
    if (symbol<decltype(cublasLtCreate)>("cublasLtCreate")(&handle_) != CUBLAS_STATUS_SUCCESS)
      throw NativeError(ErrorCode::kDevice, "Cannot use cuBLASLt: it cannot be initialised on this device");
  }
  ~Library() { symbol<decltype(cublasLtDestroy)>("cublasLtDestroy")(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  void run(const MatrixProduct& p) {
    const auto operation = describe(p);
    // Of op(A): m x k lies as it is, or as k x m.
    const auto a = layout(p, p.operands, p.a.transposed ? p.k : p.m, p.a.transposed ? p.m : p.k, p.a.stride);
    const auto b = layout(p, p.operands, p.b.transposed ? p.n : p.k, p.b.transposed ? p.k : p.n, p.b.stride);
    const auto c = layout(p, p.result, p.m, p.n, p.m);
    const Key key = keyOf(p);
    auto chosen = algorithms_.find(key);
    if (chosen == algorithms_.end())
      chosen = algorithms_.emplace(key, choose(p, operation.get(), a.get(), b.get(), c.get())).first;
    const float one = 1, beta = p.accumulate ? 1 : 0;
    const DeviceScratch workspace(chosen->second.workspaceSize);
    check(matmul_(handle_, operation.get(), &one, p.a.data, a.get(), p.b.data, b.get(), &beta, p.c, c.get(),
                  p.c, c.get(), &chosen->second.algo, workspace.as<void>(), chosen->second.workspaceSize,
                  computeStream()),
          "cublasLtMatmul", p);
  }

 private:
  // Everything that an algorithm's fitness depends on.
  using Key = std::array<int64_t, 15>;
  using Operation = Owned<cublasLtMatmulDesc_t>;
  using Layout = Owned<cublasLtMatrixLayout_t>;

  template <class Function>
  Function* symbol(const char* name) const {
    return library_.symbol<Function>(name);
  }

  static Key keyOf(const MatrixProduct& p) {
    return {p.m,
            p.n,
            p.k,
            p.a.transposed,
            p.a.stride,
            alignmentOf(p.a.data),
            p.b.transposed,
            p.b.stride,
            alignmentOf(p.b.data),
            static_cast<int64_t>(p.operands),
            static_cast<int64_t>(p.result),
            alignmentOf(p.c),
            p.bias != nullptr,
            p.bias == nullptr ? 0 : alignmentOf(p.bias),
            p.accumulate};
  }

  Operation describe(const MatrixProduct& p) const {
    cublasLtMatmulDesc_t made = nullptr;
    check(createOperation_(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate", p);
    Operation operation(made, destroyOperation_);
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      check(setOperation_(made, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute", p);
    };
    const auto transpose = [](bool transposed) -> int32_t { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    set(CUBLASLT_MATMUL_DESC_TRANSA, transpose(p.a.transposed));
    set(CUBLASLT_MATMUL_DESC_TRANSB, transpose(p.b.transposed));
    if (p.bias != nullptr) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, uint32_t{CUBLASLT_EPILOGUE_BIAS});
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(typeOf(p.result)));
    }
    return operation;
  }

  Layout layout(const MatrixProduct& p, DType dtype, int64_t rows, int64_t columns, int64_t stride) const {
    cublasLtMatrixLayout_t made = nullptr;
    check(createLayout_(&made, typeOf(dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                        stride),
          "cublasLtMatrixLayoutCreate", p);
    return Layout(made, destroyLayout_);
  }

  cublasLtMatmulHeuristicResult_t choose(const MatrixProduct& p, cublasLtMatmulDesc_t operation,
                                         cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                         cublasLtMatrixLayout_t c) const {
    cublasLtMatmulPreference_t made = nullptr;
    check(createPreference_(&made), "cublasLtMatmulPreferenceCreate", p);
    const Owned<cublasLtMatmulPreference_t> preference(made, destroyPreference_);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(setPreference_(made, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute", p);
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // Parts of k are added in the workspace and in order, or not at all: in place they come in any order.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignmentOf(p.a.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignmentOf(p.b.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignmentOf(p.c));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignmentOf(p.c));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    check(heuristic_(handle_, operation, a, b, c, c, made, 1, &result, &found),
          "cublasLtMatmulAlgoGetHeuristic", p);
    if (found == 0) check(CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmulAlgoGetHeuristic", p);
    return result;
  }

  goku::Library library_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, cublasLtMatmulHeuristicResult_t> algorithms_;

  decltype(cublasLtMatmul)* matmul_ = symbol<decltype(cublasLtMatmul)>("cublasLtMatmul");
  decltype(cublasLtMatmulDescCreate)* createOperation_ =
      symbol<decltype(cublasLtMatmulDescCreate)>("cublasLtMatmulDescCreate");
  decltype(cublasLtMatmulDescDestroy)* destroyOperation_ =
      symbol<decltype(cublasLtMatmulDescDestroy)>("cublasLtMatmulDescDestroy");
  decltype(cublasLtMatmulDescSetAttribute)* setOperation_ =
      symbol<decltype(cublasLtMatmulDescSetAttribute)>("cublasLtMatmulDescSetAttribute");
  decltype(cublasLtMatrixLayoutCreate)* createLayout_ =
      symbol<decltype(cublasLtMatrixLayoutCreate)>("cublasLtMatrixLayoutCreate");
  decltype(cublasLtMatrixLayoutDestroy)* destroyLayout_ =
      symbol<decltype(cublasLtMatrixLayoutDestroy)>("cublasLtMatrixLayoutDestroy");
  decltype(cublasLtMatmulPreferenceCreate)* createPreference_ =
      symbol<decltype(cublasLtMatmulPreferenceCreate)>("cublasLtMatmulPreferenceCreate");
  decltype(cublasLtMatmulPreferenceDestroy)* destroyPreference_ =
      symbol<decltype(cublasLtMatmulPreferenceDestroy)>("cublasLtMatmulPreferenceDestroy");
  decltype(cublasLtMatmulPreferenceSetAttribute)* setPreference_ =
      symbol<decltype(cublasLtMatmulPreferenceSetAttribute)>("cublasLtMatmulPreferenceSetAttribute");
  decltype(cublasLtMatmulAlgoGetHeuristic)* heuristic_ =
      symbol<decltype(cublasLtMatmulAlgoGetHeuristic)>("cublasLtMatmulAlgoGetHeuristic");
};

CublasLt::CublasLt() = default;
CublasLt::~CublasLt() = default;

void CublasLt::run(const MatrixProduct& product) {
  if (library_ == nullptr) library_ = std::make_unique<Library>();
  library_->run(product);
}

}  // namespace goku
