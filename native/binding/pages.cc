// pageMap, pageUnmap, tensors in pages and copies out of them.
#include <cstring>

#include "native/binding/call.h"
#include "native/page.h"

namespace goku {
namespace {

void pageMap(Call& call) {
  const std::string path = call.string(0);
  const auto bytes = static_cast<size_t>(call.count(1));
  auto holder = std::make_unique<std::shared_ptr<PageHolder>>(std::make_shared<PageHolder>());
  const std::shared_ptr<Page> page = (*holder)->page = Page::map(path, bytes);
  call.context().service<PageTable>().add(*holder);
  napi_value buffer, view;
  const auto release = [](napi_env, void*, void* hint) {
    delete static_cast<std::shared_ptr<PageHolder>*>(hint);
  };
  checkNapi(napi_create_external_arraybuffer(call.env(), page->data(), bytes, release, holder.get(), &buffer),
            "pageMap");
  holder.release();
  checkNapi(napi_create_typedarray(call.env(), napi_uint8_array, bytes, buffer, 0, &view), "pageMap");
  call.returns(view);
}

void pageUnmap(Call& call) {
  const std::byte* data = call.page(0)->data();
  // Detached first: from here on every view has length 0, so that a later read finds nothing instead of
  // crashing.
  napi_value buffer;
  checkNapi(napi_get_typedarray_info(call.env(), call.value(0), nullptr, nullptr, nullptr, &buffer, nullptr),
            "pageUnmap");
  checkNapi(napi_detach_arraybuffer(call.env(), buffer), "pageUnmap");
  call.context().service<PageTable>().remove(data);
}

/// The bytes of `count` elements at element `offset` of the tensor in args[tensorIndex].
std::span<std::byte> elements(const Call& call, size_t tensorIndex, size_t offsetIndex, int64_t count) {
  const Tensor& tensor = call.tensor(tensorIndex);
  const int64_t offset = call.count(offsetIndex);
  if (count > tensor.count || offset > tensor.count - count)
    call.reject(tensorIndex, "elements [", offset, ", ", offset + count, ") of a tensor of ", tensor.count);
  const size_t size = dtypeBytes(tensor.dtype);
  return {tensor.data + static_cast<size_t>(offset) * size, static_cast<size_t>(count) * size};
}

/// `bytes` bytes of the page in args[pageIndex] from the offset in the argument after it.
std::byte* pageBytes(const Call& call, size_t pageIndex, size_t bytes) {
  const std::span<std::byte> page = call.bytes(pageIndex);
  const auto offset = static_cast<size_t>(call.count(pageIndex + 1));
  if (bytes > page.size() || offset > page.size() - bytes)
    call.reject(pageIndex, "bytes [", offset, ", ", offset + bytes, ") of a page of ", page.size());
  return page.data() + offset;
}

void pageTensor(Call& call) {
  const auto dtype = static_cast<DType>(call.integer(2, 0, 3));
  const int64_t count = call.count(3);
  const size_t size = dtypeBytes(dtype), page = call.bytes(0).size();
  const auto offset = static_cast<size_t>(call.count(1));
  if (offset % size != 0) call.reject(1, offset, ", want a multiple of ", size);
  if (offset > page || static_cast<size_t>(count) > (page - offset) / size)
    call.reject(0, count, " elements at byte ", offset, " of a page of ", page);
  call.returns(static_cast<double>(call.context().tensors.ofPage(call.page(0), offset, dtype, count)));
}

void pageToTensor(Call& call) {
  const auto to = elements(call, 0, 1, call.count(4));
  if (to.empty()) return;
  std::memcpy(to.data(), pageBytes(call, 2, to.size()), to.size());
}

}  // namespace

void RegisterPages(Registry& registry) {
  registry.add("pageMap", pageMap);
  registry.add("pageUnmap", pageUnmap);
  registry.add("pageTensor", pageTensor);
  registry.add("pageToTensor", pageToTensor);
}

}  // namespace goku
