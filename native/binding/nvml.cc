#include "native/nvml.h"

#include "native/binding/call.h"

namespace goku {
namespace {

/// One object of the result, field by field in the order of worker/engine/native.ts.
class Object {
 public:
  explicit Object(napi_env env) : env_(env) { checkNapi(napi_create_object(env, &object_), "object"); }

  void set(const char* name, napi_value value) const {
    checkNapi(napi_set_named_property(env_, object_, name, value), name);
  }
  void set(const char* name, double number) const {
    napi_value value;
    checkNapi(napi_create_double(env_, number, &value), name);
    set(name, value);
  }
  void set(const char* name, bool flag) const {
    napi_value value;
    checkNapi(napi_get_boolean(env_, flag, &value), name);
    set(name, value);
  }
  void set(const char* name, const std::string& text) const {
    napi_value value;
    checkNapi(napi_create_string_utf8(env_, text.c_str(), text.size(), &value), name);
    set(name, value);
  }
  template <class T>
  void set(const char* name, const std::optional<T>& value) const {
    if (value) return set(name, *value);
    napi_value null;
    checkNapi(napi_get_null(env_, &null), name);
    set(name, null);
  }
  napi_value value() const { return object_; }

 private:
  napi_env env_;
  napi_value object_ = nullptr;
};

template <class T, class Make>
napi_value list(napi_env env, const std::vector<T>& all, const Make& make) {
  napi_value values;
  checkNapi(napi_create_array_with_length(env, all.size(), &values), "list");
  for (uint32_t i = 0; i < all.size(); i++)
    checkNapi(napi_set_element(env, values, i, make(all[i]).value()), "list");
  return values;
}

using Held = std::unique_ptr<Nvml>;

Nvml& opened(Call& call) {
  const Held& nvml = call.context().service<Held>();
  if (!nvml)
    throw NativeError(ErrorCode::kArgument,
                      concat(call.name(), ": NVML is not open, want nvmlOpen() before"));
  return *nvml;
}

void nvmlOpen(Call& call) {
  Held& nvml = call.context().service<Held>();
  if (!nvml) nvml = Nvml::open();
  call.returns(nvml != nullptr);
}

void nvmlRead(Call& call) {
  const napi_env env = call.env();
  const std::optional<GpuReading> read = opened(call).read(call.uint32(0));
  if (!read) {
    napi_value null;
    checkNapi(napi_get_null(env, &null), "nvmlRead");
    return call.returns(null);
  }
  const Object gpu(env);
  gpu.set("lost", read->lost);
  gpu.set("uuid", read->uuid);
  gpu.set("name", read->name);
  gpu.set("busId", read->busId);
  gpu.set("temperatureCelsius", read->temperatureCelsius);
  gpu.set("memoryTemperatureCelsius", read->memoryTemperatureCelsius);
  gpu.set("smClockMhz", read->smClockMhz);
  gpu.set("memoryClockMhz", read->memoryClockMhz);
  gpu.set("clockReasons", read->clockReasons);
  gpu.set("powerMilliwatts", read->powerMilliwatts);
  gpu.set("powerLimitMilliwatts", read->powerLimitMilliwatts);
  gpu.set("memoryUsedBytes", read->memoryUsedBytes);
  gpu.set("memoryTotalBytes", read->memoryTotalBytes);
  gpu.set("utilizationPercent", read->utilizationPercent);
  gpu.set("eccCorrected", read->eccCorrected);
  gpu.set("eccUncorrected", read->eccUncorrected);
  gpu.set("retiredPages", read->retiredPages);
  gpu.set("remappedRowsCorrected", read->remappedRowsCorrected);
  gpu.set("remappedRowsUncorrected", read->remappedRowsUncorrected);
  gpu.set("remapPending", read->remapPending);
  gpu.set("remapFailed", read->remapFailed);
  gpu.set("links", list(env, read->links, [env](const NvLinkReading& link) {
            const Object one(env);
            one.set("link", static_cast<double>(link.link));
            one.set("up", link.up);
            one.set("replays", link.replays);
            one.set("recoveries", link.recoveries);
            one.set("crcErrors", link.crcErrors);
            return one;
          }));
  call.returns(gpu.value());
}

void nvmlXids(Call& call) {
  const napi_env env = call.env();
  call.returns(list(env, opened(call).xids(), [env](const GpuXid& told) {
    const Object one(env);
    one.set("busId", told.busId);
    one.set("xid", told.xid);
    return one;
  }));
}

}  // namespace

void RegisterNvml(Registry& registry) {
  registry.add("nvmlOpen", nvmlOpen);
  registry.add("nvmlCount", [](Call& c) { c.returns(static_cast<double>(opened(c).count())); });
  registry.add("nvmlRead", nvmlRead);
  registry.add("nvmlXids", nvmlXids);
}

}  // namespace goku
