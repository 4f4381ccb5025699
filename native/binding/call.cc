#include "native/binding/call.h"

#include <cmath>
#include <new>

namespace goku {
namespace {

/// Exports live as long as their environment: functions may be called until its very end.
struct Exports {
  std::deque<Export> list;
};

napi_value trampoline(napi_env env, napi_callback_info info) {
  Call call(env, info);
  try {
    call.run();
    return call.result();
  } catch (const NativeError& error) {
    throwError(env, error);
  } catch (const std::bad_alloc&) {
    throwError(
        env, NativeError(ErrorCode::kOutOfMemory, concat(call.name(), ": the system gives no more memory")));
  } catch (const std::exception& error) {
    throwError(env, NativeError(ErrorCode::kArgument, concat(call.name(), ": ", error.what())));
  }
  return nullptr;
}

}  // namespace

void checkNapi(napi_status status, const char* what) {
  if (status != napi_ok)
    throw NativeError(ErrorCode::kArgument, concat(what, ": Node-API status ", static_cast<int>(status)));
}

napi_value makeError(napi_env env, const NativeError& error) {
  napi_value code, message, object, value;
  napi_create_string_utf8(env, errorCodeName(error.code()), NAPI_AUTO_LENGTH, &code);
  napi_create_string_utf8(env, error.what(), NAPI_AUTO_LENGTH, &message);
  napi_create_error(env, code, message, &object);
  if (error.hasPeer()) {
    napi_create_int32(env, error.peer(), &value);
    napi_set_named_property(env, object, "peer", value);
    napi_create_string_utf8(env, error.operation().c_str(), NAPI_AUTO_LENGTH, &value);
    napi_set_named_property(env, object, "operation", value);
  }
  return object;
}

void throwError(napi_env env, const NativeError& error) { napi_throw(env, makeError(env, error)); }

Call::Call(napi_env env, napi_callback_info info) : env_(env) {
  void* data = nullptr;
  napi_get_cb_info(env, info, &argumentCount_, arguments_, nullptr, &data);
  export_ = static_cast<const Export*>(data);
}

napi_value Call::value(size_t index) const {
  napi_valuetype type = napi_undefined;
  if (index < argumentCount_) napi_typeof(env_, arguments_[index], &type);
  if (type == napi_undefined) reject(index, "missing");
  return arguments_[index];
}

void Call::wrongKind(size_t index, const char* wanted) const {
  napi_valuetype type;
  napi_typeof(env_, value(index), &type);
  constexpr const char* kNames[] = {"undefined", "null",      "a boolean",  "a number",    "a string",
                                    "a symbol",  "an object", "a function", "an external", "a bigint"};
  reject(index, kNames[type], ", want ", wanted);
}

double Call::number(size_t index) const {
  double number;
  if (index >= argumentCount_) reject(index, "missing");
  if (napi_get_value_double(env_, arguments_[index], &number) != napi_ok) wrongKind(index, "a number");
  return number;
}

int64_t Call::integer(size_t index, int64_t min, int64_t max) const {
  const double real = number(index);
  // The negated form also catches NaN.
  if (!(real >= static_cast<double>(min) && real <= static_cast<double>(max)) || std::trunc(real) != real)
    reject(index, real, ", want a whole number from ", min, " to ", max);
  return static_cast<int64_t>(real);
}

uint64_t Call::uint64(size_t index) const {
  uint64_t word;
  bool lossless = false;
  if (napi_get_value_bigint_uint64(env_, value(index), &word, &lossless) != napi_ok)
    wrongKind(index, "a bigint");
  if (!lossless) reject(index, "a bigint outside 64 bits, want 0 to 2^64 - 1");
  return word;
}

bool Call::boolean(size_t index) const {
  bool flag;
  if (napi_get_value_bool(env_, value(index), &flag) != napi_ok) wrongKind(index, "a boolean");
  return flag;
}

std::string Call::string(size_t index) const {
  const napi_value from = value(index);
  size_t length;
  if (napi_get_value_string_utf8(env_, from, nullptr, 0, &length) != napi_ok) wrongKind(index, "a string");
  std::string text(length, '\0');
  napi_get_value_string_utf8(env_, from, text.data(), length + 1, &length);
  return text;
}

TensorId Call::tensorId(size_t index) const {
  const double real = number(index);
  if (!(real >= 0 && real < 9007199254740992.0)) reject(index, real, " is no tensor");
  return static_cast<TensorId>(real);
}

Tensor& Call::tensor(size_t index) const {
  const TensorId id = tensorId(index);
  Tensor* found = context().tensors.find(id);
  if (found == nullptr) reject(index, "tensor ", id, " is freed or unknown, want a live one");
  return *found;
}

Tensor* Call::tensorOrNull(size_t index) const { return tensorId(index) == 0 ? nullptr : &tensor(index); }

Tensor& Call::tensor(size_t index, DType dtype) const {
  Tensor& found = tensor(index);
  if (found.dtype != dtype) reject(index, "tensor is ", dtypeName(found.dtype), ", want ", dtypeName(dtype));
  return found;
}

std::vector<Tensor> Call::tensors(size_t index) const {
  std::vector<Tensor> found;
  for (const double real : doubles(index)) {
    if (!(real >= 0 && real < 9007199254740992.0))
      reject(index, "element ", found.size(), ": ", real, " is no tensor");
    const auto id = static_cast<TensorId>(real);
    const Tensor* tensor = context().tensors.find(id);
    if (tensor == nullptr)
      reject(index, "element ", found.size(), ": tensor ", id, " is freed or unknown, want a live one");
    found.push_back(*tensor);
  }
  return found;
}

std::span<std::byte> Call::typedArray(size_t index, napi_typedarray_type wanted, size_t elementBytes,
                                      const char* typeName) const {
  napi_typedarray_type type;
  size_t length;
  void* data;
  const napi_value from = value(index);
  if (napi_get_typedarray_info(env_, from, &type, &length, &data, nullptr, nullptr) != napi_ok)
    wrongKind(index, typeName);
  if (type != wanted) reject(index, "a typed array of another kind, want ", typeName);
  return {static_cast<std::byte*>(data), length * elementBytes};
}

std::span<std::byte> Call::bytes(size_t index) const {
  return typedArray(index, napi_uint8_array, 1, "Uint8Array");
}

std::shared_ptr<Page> Call::page(size_t index) const {
  const std::span<std::byte> view = bytes(index);
  auto found = context().service<PageTable>().find(view.data());
  if (found == nullptr || found->bytes() != view.size())
    reject(index, "no mapped page (unmapped already?), want one that pageMap returned");
  return found;
}

std::span<int32_t> Call::int32s(size_t index) const {
  const auto raw = typedArray(index, napi_int32_array, 4, "Int32Array");
  return {reinterpret_cast<int32_t*>(raw.data()), raw.size() / 4};
}

std::span<uint32_t> Call::uint32s(size_t index) const {
  const auto raw = typedArray(index, napi_uint32_array, 4, "Uint32Array");
  return {reinterpret_cast<uint32_t*>(raw.data()), raw.size() / 4};
}

std::span<double> Call::doubles(size_t index) const {
  const auto raw = typedArray(index, napi_float64_array, 8, "Float64Array");
  return {reinterpret_cast<double*>(raw.data()), raw.size() / 8};
}

std::span<const int32_t> Call::offsets(size_t index) const {
  const std::span<const int32_t> offsets = int32s(index);
  if (offsets.empty() || offsets[0] != 0) reject(index, "want offsets that start at 0");
  for (size_t i = 1; i < offsets.size(); i++) {
    if (offsets[i] < offsets[i - 1])
      reject(index, "offset ", i, " falls from ", offsets[i - 1], " to ", offsets[i], ", want a rising list");
  }
  return offsets;
}

void Call::returns(double number) { checkNapi(napi_create_double(env_, number, &result_), name()); }
void Call::returns(bool flag) { checkNapi(napi_get_boolean(env_, flag, &result_), name()); }
void Call::returns(const std::string& text) {
  checkNapi(napi_create_string_utf8(env_, text.data(), text.size(), &result_), name());
}

void Registry::add(const char* name, Operation operation) {
  std::deque<Export>& exports = context_.service<Exports>().list;
  exports.push_back({name, operation, &context_});
  napi_value function;
  checkNapi(napi_create_function(env_, name, NAPI_AUTO_LENGTH, trampoline, &exports.back(), &function), name);
  checkNapi(napi_set_named_property(env_, exports_, name, function), name);
}

}  // namespace goku
