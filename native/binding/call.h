// How operations meet JavaScript. An operation is a plain function
//
//   void geluForward(Call& call) {
//     goku::geluForward(call.tensor(0), call.tensor(1));
//   }
//   void RegisterElementwise(Registry& registry) { registry.add("geluForward", geluForward); }
//
// Arguments are converted once, by position; what is missing or of a wrong kind throws NATIVE_ARGUMENT with
// the exact place: `linearForward.args[3]: missing`. NativeError (and std::bad_alloc) become JavaScript
// Errors with `code`, and for collectives `peer` and `operation`. Why not node-addon-api: docs/decisions/012.
#pragma once

#include <node_api.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <typeindex>
#include <unordered_map>
#include <vector>

#include "native/page.h"
#include "native/tensor.h"

namespace goku {

/// What one JavaScript environment (main thread or worker thread) owns. Freed when the environment ends.
class Context {
 public:
  TensorTable tensors;

  /// The one T of this environment, made on first use: context.service<CommRegistry>().
  template <class T>
  T& service() {
    std::shared_ptr<void>& held = services_[std::type_index(typeid(T))];
    if (!held) held = std::make_shared<T>();
    return *static_cast<T*>(held.get());
  }

 private:
  std::unordered_map<std::type_index, std::shared_ptr<void>> services_;
};

/// Throws `error` into JavaScript, or makes the Error object for a rejection.
void throwError(napi_env env, const NativeError& error);
napi_value makeError(napi_env env, const NativeError& error);

class Call;

/// An exported function.
struct Export {
  const char* name;
  void (*operation)(Call&);
  Context* context;
};

class Call {
 public:
  static constexpr size_t kMaxArguments = 20;

  Call(napi_env env, napi_callback_info info);

  void run() { export_->operation(*this); }
  napi_env env() const { return env_; }
  Context& context() const { return *export_->context; }
  const char* name() const { return export_->name; }
  /// The raw value; throws where it is undefined.
  napi_value value(size_t index) const;

  /// A live tensor.
  Tensor& tensor(size_t index) const;
  /// A live tensor, or nullptr for 0.
  Tensor* tensorOrNull(size_t index) const;
  /// A live tensor of this dtype.
  Tensor& tensor(size_t index, DType dtype) const;
  TensorId tensorId(size_t index) const;
  /// Float64Array of handles: live tensors, whose memory the result holds.
  std::vector<Tensor> tensors(size_t index) const;
  /// Any number, NaN and infinities too.
  double number(size_t index) const;
  /// A whole number in [min, max].
  int64_t integer(size_t index, int64_t min, int64_t max) const;
  /// A whole number >= 0: a count, size, row number or element offset.
  int64_t count(size_t index) const { return integer(index, 0, int64_t{1} << 53); }
  uint32_t uint32(size_t index) const { return static_cast<uint32_t>(integer(index, 0, 0xffffffffLL)); }
  /// A bigint in [0, 2^64).
  uint64_t uint64(size_t index) const;
  bool boolean(size_t index) const;
  std::string string(size_t index) const;
  // Typed arrays: their memory, valid until the call returns.
  std::span<std::byte> bytes(size_t index) const;  // Uint8Array (Buffer too)
  std::span<int32_t> int32s(size_t index) const;
  std::span<uint32_t> uint32s(size_t index) const;
  std::span<double> doubles(size_t index) const;
  /// Int32Array of row offsets: starts at 0, never falls, at least one entry. Returns it; samples = size - 1.
  std::span<const int32_t> offsets(size_t index) const;

  /// The page that pageMap returned as this argument. Keep the pointer where native threads use its memory:
  /// the mapping then outlives pageUnmap.
  std::shared_ptr<Page> page(size_t index) const;

  // The result; undefined when none is set.
  void returns(double number);
  void returns(bool flag);
  void returns(const std::string& text);
  void returns(napi_value value) { result_ = value; }
  napi_value result() const { return result_; }

  /// Throws NATIVE_ARGUMENT: `<name>.args[<index>]: <parts>`.
  template <class... Parts>
  [[noreturn]] void reject(size_t index, const Parts&... parts) const {
    throw NativeError(ErrorCode::kArgument, concat(name(), ".args[", index, "]: ", parts...));
  }

 private:
  std::span<std::byte> typedArray(size_t index, napi_typedarray_type type, size_t elementBytes,
                                  const char* typeName) const;
  [[noreturn]] void wrongKind(size_t index, const char* wanted) const;

  napi_env env_;
  const Export* export_ = nullptr;
  size_t argumentCount_ = kMaxArguments;
  napi_value arguments_[kMaxArguments];
  napi_value result_ = nullptr;
};

/// Throws NATIVE_ARGUMENT when a Node-API call fails for another reason than an argument.
void checkNapi(napi_status status, const char* what);

class Registry {
 public:
  using Operation = void (*)(Call&);

  Registry(napi_env env, napi_value exports, Context& context)
      : env_(env), exports_(exports), context_(context) {}
  /// Exports `operation` as exports[name]. `name` must be a literal.
  void add(const char* name, Operation operation);
  napi_env env() const { return env_; }
  napi_value exports() const { return exports_; }
  Context& context() const { return context_; }

 private:
  napi_env env_;
  napi_value exports_;
  Context& context_;
};

// One per file of this folder.
void RegisterTensors(Registry& registry);
void RegisterPages(Registry& registry);
void RegisterLinear(Registry& registry);
void RegisterElementwise(Registry& registry);
void RegisterFlow(Registry& registry);
void RegisterNorm(Registry& registry);
void RegisterAttention(Registry& registry);
void RegisterRandom(Registry& registry);
void RegisterOptimizer(Registry& registry);
void RegisterSnapshot(Registry& registry);
void RegisterCollectives(Registry& registry);
void RegisterStackDump(Registry& registry);
void RegisterNvml(Registry& registry);

}  // namespace goku
