// Tensors of the CPU backend: flat runs of elements in reference-counted memory, known to JavaScript by
// number.
//
// A TensorTable belongs to one JavaScript environment and is used from its thread only. What it hands out
// (Tensor) holds its memory by reference, so a copy of a Tensor may be taken to another thread and dropped
// there: memory goes back to the (locked) allocator with its last holder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "native/allocator.h"
#include "native/bf16.h"
#include "native/error.h"
#include "native/page.h"

namespace goku {

/// Values of DTYPE in worker/engine/native.ts.
enum class DType : uint8_t { kF32 = 0, kBf16 = 1, kF64 = 2, kU8 = 3 };

inline size_t dtypeBytes(DType dtype) {
  constexpr size_t kBytes[] = {4, 2, 8, 1};
  return kBytes[static_cast<size_t>(dtype) & 3];
}
inline const char* dtypeName(DType dtype) {
  constexpr const char* kNames[] = {"f32", "bf16", "f64", "u8"};
  return kNames[static_cast<size_t>(dtype) & 3];
}

template <class T>
inline constexpr DType kDTypeOf = DType::kU8;
template <>
inline constexpr DType kDTypeOf<float> = DType::kF32;
template <>
inline constexpr DType kDTypeOf<bf16> = DType::kBf16;
template <>
inline constexpr DType kDTypeOf<double> = DType::kF64;

/// One block of allocator memory or of a page, given back when the last Tensor that shares it goes.
/// Thread-safe by shared_ptr.
using StorageRef = std::shared_ptr<std::byte>;

struct Tensor {
  StorageRef storage;  // null in a free slot of the table
  std::byte* data = nullptr;
  int64_t count = 0;  // elements
  DType dtype = DType::kF32;

  size_t bytes() const { return static_cast<size_t>(count) * dtypeBytes(dtype); }
  /// The elements, without looking at dtype: callers have checked it.
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
  bool isFloat() const { return dtype == DType::kF32 || dtype == DType::kBf16; }
};

/// Calls body(T{}) with T = float or bf16; other dtypes throw NATIVE_ARGUMENT naming `what`.
/// visitFloat(x.dtype, "geluForward: x", [&](auto tag) { using T = decltype(tag); ... });
template <class Body>
decltype(auto) visitFloat(DType dtype, const char* what, Body&& body) {
  GOKU_CHECK(dtype == DType::kF32 || dtype == DType::kBf16, what, " is ", dtypeName(dtype),
             ", want f32 or bf16");
  if (dtype == DType::kF32) return body(float{});
  return body(bf16{});
}

/// A handle: slot + kTableSlots * generation. Never 0; a freed one is never given out again (2^32
/// generations).
using TensorId = uint64_t;
inline constexpr uint64_t kTableSlots = uint64_t{1} << 21;

class TensorTable {
 public:
  TensorTable() = default;
  TensorTable(const TensorTable&) = delete;
  TensorTable& operator=(const TensorTable&) = delete;

  /// Contents are undefined; 64-byte aligned. Throws NATIVE_OUT_OF_MEMORY.
  TensorId alloc(DType dtype, int64_t count);
  /// Elements [offset, offset + count) of base, sharing and keeping its memory.
  TensorId view(TensorId base, int64_t offset, int64_t count);
  /// Memory of a page, which the tensor keeps mapped. `data` is aligned to the dtype's size.
  TensorId ofPage(std::shared_ptr<Page> page, size_t offset, DType dtype, int64_t count);
  void free(TensorId id);

  /// The tensor, or nullptr for a number that is not a live handle.
  Tensor* find(TensorId id) {
    const uint64_t slot = id & (kTableSlots - 1);
    if (slot >= slots_.size()) return nullptr;
    Slot& s = slots_[slot];
    if (s.generation != id / kTableSlots || !s.tensor.storage) return nullptr;
    return &s.tensor;
  }

  /// For scratch memory of kernels, given back before they return.
  Allocator& allocator() { return *allocator_; }
  /// Where the memory of tensors lies, also after the table has gone.
  std::shared_ptr<const Allocator> memory() const { return allocator_; }

  int64_t liveTensors() const { return liveTensors_; }
  AllocatorStats stats() const { return allocator_->stats(); }
  void resetPeak() { allocator_->resetPeak(); }

 private:
  struct Slot {
    Tensor tensor;
    uint64_t generation = 1;
  };
  TensorId place(Tensor tensor);

  // Shared with every block handed out: memory may outlive the table, on another thread.
  std::shared_ptr<Allocator> allocator_ = std::make_shared<Allocator>();
  std::vector<Slot> slots_;
  std::vector<uint32_t> freeSlots_;
  int64_t liveTensors_ = 0;
};

}  // namespace goku
