// pageMap, pageUnmap, tensors in pages.
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

}  // namespace

void RegisterPages(Registry& registry) {
  registry.add("pageMap", pageMap);
  registry.add("pageUnmap", pageUnmap);
  registry.add("pageTensor", pageTensor);
}

}  // namespace goku
