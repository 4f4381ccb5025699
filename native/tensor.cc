#include "native/tensor.h"

#include <limits>
#include <utility>

namespace goku {

TensorId TensorTable::alloc(DType dtype, int64_t count) {
  GOKU_CHECK(count >= 0, "tensorAlloc: count ", count, ", want 0 or more");
  GOKU_CHECK(count <= std::numeric_limits<int64_t>::max() / 16, "tensorAlloc: count ", count,
             " is too large");
  const size_t bytes = static_cast<size_t>(count) * dtypeBytes(dtype);
  std::byte* memory = allocator_->allocate(bytes);
  StorageRef storage(memory, [allocator = allocator_](std::byte* block) { allocator->release(block); });
  return place(Tensor{std::move(storage), memory, count, dtype});
}

TensorId TensorTable::view(TensorId base, int64_t offset, int64_t count) {
  const Tensor* found = find(base);
  GOKU_CHECK(found != nullptr, "tensorView: tensor ", base, " is freed or unknown, want a live one");
  GOKU_CHECK(offset >= 0 && count >= 0 && offset <= found->count && count <= found->count - offset,
             "tensorView: elements [", offset, ", ", offset, " + ", count, ") of a tensor of ", found->count);
  Tensor tensor = *found;
  tensor.data += static_cast<size_t>(offset) * dtypeBytes(tensor.dtype);
  tensor.count = count;
  return place(std::move(tensor));
}

TensorId TensorTable::ofPage(std::shared_ptr<Page> page, size_t offset, DType dtype, int64_t count) {
  std::byte* data = page->data() + offset;
  const size_t bytes = static_cast<size_t>(count) * dtypeBytes(dtype);
  // One without bytes at the page's end would stand where another mapping begins.
  if (bytes == 0) return place(Tensor{StorageRef(page, data), data, count, dtype});
  page = memory::reachable(std::move(page));
  allocator_->announce(data, bytes, {page->fd(), page->number(), offset});
  StorageRef storage(data, [page = std::move(page), allocator = allocator_](std::byte* start) {
    allocator->takeBack(start);
  });
  return place(Tensor{std::move(storage), data, count, dtype});
}

void TensorTable::free(TensorId id) {
  Tensor* tensor = find(id);
  GOKU_CHECK(tensor != nullptr, "tensorFree: tensor ", id, " is freed already or unknown, want a live one");
  const uint64_t slot = id & (kTableSlots - 1);
  *tensor = Tensor{};
  slots_[slot].generation++;
  freeSlots_.push_back(static_cast<uint32_t>(slot));
  liveTensors_--;
}

TensorId TensorTable::place(Tensor tensor) {
  if (freeSlots_.empty()) {
    GOKU_CHECK(slots_.size() < kTableSlots, "tensorAlloc: ", slots_.size(), " tensors are alive, free some");
    slots_.emplace_back();
    freeSlots_.push_back(static_cast<uint32_t>(slots_.size() - 1));
  }
  const uint32_t slot = freeSlots_.back();
  freeSlots_.pop_back();
  slots_[slot].tensor = std::move(tensor);
  liveTensors_++;
  return slot + kTableSlots * slots_[slot].generation;
}

}  // namespace goku
