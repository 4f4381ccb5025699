// Tensors, their bytes and counts, and what the machine can do.
#include <omp.h>

#include "native/binding/call.h"
#include "native/devices.h"

namespace goku {
namespace {

void setNumber(Call& call, napi_value object, const char* name, double number) {
  napi_value value;
  checkNapi(napi_create_double(call.env(), number, &value), name);
  checkNapi(napi_set_named_property(call.env(), object, name, value), name);
}

void cpuInfo(Call& call) {
  napi_value info, isa, bf16;
  checkNapi(napi_create_object(call.env(), &info), "cpuInfo");
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
  const bool native = wide && __builtin_cpu_supports("avx512bf16");
  checkNapi(napi_create_string_utf8(call.env(),
                                    native ? "avx512_bf16"
                                    : wide ? "avx512"
                                           : "avx2",
                                    NAPI_AUTO_LENGTH, &isa),
            "cpuInfo");
  checkNapi(napi_set_named_property(call.env(), info, "isa", isa), "cpuInfo");
  checkNapi(napi_get_boolean(call.env(), native, &bf16), "cpuInfo");
  checkNapi(napi_set_named_property(call.env(), info, "bf16Native", bf16), "cpuInfo");
  setNumber(call, info, "threads", omp_get_max_threads());
  call.returns(info);
}

void listDevices(Call& call) {
  napi_value list;
  checkNapi(napi_create_array(call.env(), &list), "devices");
  uint32_t index = 0;
  for (const DeviceInfo& device : devices()) {
    napi_value info, name;
    checkNapi(napi_create_object(call.env(), &info), "devices");
    checkNapi(napi_create_string_utf8(call.env(), device.name.c_str(), NAPI_AUTO_LENGTH, &name), "devices");
    checkNapi(napi_set_named_property(call.env(), info, "name", name), "devices");
    setNumber(call, info, "memoryBytes", static_cast<double>(device.memoryBytes));
    checkNapi(napi_set_element(call.env(), list, index++, info), "devices");
  }
  call.returns(list);
}

void memoryStats(Call& call) {
  const TensorTable& tensors = call.context().tensors;
  const AllocatorStats stats = tensors.stats();
  napi_value object;
  checkNapi(napi_create_object(call.env(), &object), "memoryStats");
  setNumber(call, object, "liveBytes", static_cast<double>(stats.liveBytes));
  setNumber(call, object, "liveTensors", static_cast<double>(tensors.liveTensors()));
  setNumber(call, object, "peakBytes", static_cast<double>(stats.peakBytes));
  setNumber(call, object, "cachedBytes", static_cast<double>(stats.cachedBytes));
  call.returns(object);
}

/// The place of `bytes` raw bytes from element args[1] of the tensor args[0].
std::byte* rawElements(const Call& call, size_t bytes) {
  const Tensor& tensor = call.tensor(0);
  const size_t size = dtypeBytes(tensor.dtype);
  const auto offset = static_cast<size_t>(call.count(1));
  if (bytes % size != 0)
    call.reject(2, bytes, " bytes, want a multiple of ", size, " for ", dtypeName(tensor.dtype));
  const size_t count = bytes / size;
  const auto total = static_cast<size_t>(tensor.count);
  if (count > total || offset > total - count)
    call.reject(1, "elements [", offset, ", ", offset + count, ") of a tensor of ", total);
  return tensor.data + offset * size;
}

void tensorRead(Call& call) {
  const auto into = call.bytes(2);
  const std::byte* from = rawElements(call, into.size());
  if (!into.empty()) memory::copyOut(into.data(), from, into.size());
}

void tensorWrite(Call& call) {
  const auto from = call.bytes(2);
  std::byte* to = rawElements(call, from.size());
  if (!from.empty()) memory::copyIn(to, from.data(), from.size());
}

}  // namespace

void RegisterTensors(Registry& registry) {
  registry.add("cpuInfo", cpuInfo);
  registry.add("devices", listDevices);
  registry.add("threadsSet", [](Call& c) { omp_set_num_threads(static_cast<int>(c.integer(0, 1, 1024))); });
  registry.add("tensorAlloc", [](Call& c) {
    const auto dtype = static_cast<DType>(c.integer(0, 0, 3));
    c.returns(static_cast<double>(c.context().tensors.alloc(dtype, c.count(1))));
  });
  registry.add("tensorView", [](Call& c) {
    c.returns(static_cast<double>(c.context().tensors.view(c.tensorId(0), c.count(1), c.count(2))));
  });
  registry.add("tensorFree", [](Call& c) { c.context().tensors.free(c.tensorId(0)); });
  registry.add("tensorRead", tensorRead);
  registry.add("tensorWrite", tensorWrite);
  registry.add("memoryStats", memoryStats);
  registry.add("memoryPeakReset", [](Call& c) { c.context().tensors.resetPeak(); });
}

}  // namespace goku
