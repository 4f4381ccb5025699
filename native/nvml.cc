#include "native/nvml.h"

#include <dlfcn.h>

#include <array>

#include "native/error.h"

namespace goku {
namespace {

using Device = struct OpaqueDevice*;

// nvmlReturn_t
constexpr int kSuccess = 0;
constexpr int kNotSupported = 3;
constexpr int kInsufficientSize = 7;
constexpr int kLost = 15;
constexpr int kResetRequired = 16;

// Other enumerations, by the names that nvml.h gives them.
constexpr int kTemperatureGpu = 0;
constexpr int kClockSm = 1;
constexpr int kClockMemory = 2;
constexpr int kErrorCorrected = 0;
constexpr int kErrorUncorrected = 1;
constexpr int kEccVolatile = 0;
constexpr std::array<int, 2> kRetirementCauses{0, 1};  // several single-bit errors, one double-bit error
constexpr unsigned kFieldMemoryTemperature = 82;
constexpr unsigned kLinksMax = 18;
constexpr int kLinkReplay = 0;
constexpr int kLinkRecovery = 1;
constexpr int kLinkCrcFlit = 2;
constexpr int kLinkCrcData = 3;
constexpr unsigned long long kEventXid = 8;
/// The driver keeps a few; whatever it does, reading ends.
constexpr int kXidsMax = 100;

constexpr unsigned kTextBytes = 96;

struct Memory {
  unsigned long long total, free, used;
};

struct Utilization {
  unsigned gpu, memory;
};

struct PciInfo {
  char busIdLegacy[16];
  unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
  char busId[32];
};

struct FieldValue {
  unsigned fieldId, scopeId;
  long long timestamp, latencyUsec;
  int valueType, code;
  union {
    double number;
    unsigned unsignedInt;
    unsigned long unsignedLong;
    unsigned long long unsignedLongLong;
    long long signedLongLong;
    int signedInt;
    unsigned short unsignedShort;
  } value;
};

struct EventData {
  Device device;
  unsigned long long eventType, eventData;
  unsigned gpuInstanceId, computeInstanceId;
};

std::optional<double> numberOf(const FieldValue& field) {
  if (field.code != kSuccess) return std::nullopt;
  switch (field.valueType) {
    case 0:
      return field.value.number;
    case 1:
      return field.value.unsignedInt;
    case 2:
      return static_cast<double>(field.value.unsignedLong);
    case 3:
      return static_cast<double>(field.value.unsignedLongLong);
    case 4:
      return static_cast<double>(field.value.signedLongLong);
    case 5:
      return field.value.signedInt;
    case 6:
      return field.value.unsignedShort;
    default:
      return std::nullopt;
  }
}

/// Asks one GPU, and notes when it turns out to be lost: then nothing more is asked, since each call may take
/// seconds.
template <class Call>
class Asker {
 public:
  Asker(const Call& call, GpuReading& reading) : call_(call), reading_(reading) {}

  /// The call's code.
  template <class... Arguments>
  int code(const char* name, Arguments... arguments) const {
    if (reading_.lost) return kLost;
    const int code = call_(name, arguments...);
    if (code == kLost || code == kResetRequired) reading_.lost = true;
    return code;
  }

  /// What a call writes where its last argument points; nullopt: it does not.
  template <class T, class... Arguments>
  std::optional<T> get(const char* name, Arguments... arguments) const {
    T value{};
    if (code(name, arguments..., &value) != kSuccess) return std::nullopt;
    return value;
  }

 private:
  const Call& call_;
  GpuReading& reading_;
};

std::optional<double> sum(std::optional<double> a, std::optional<double> b) {
  return a && b ? *a + *b : a ? a : b;
}

}  // namespace

/// The function's code; not supported where the library has no such function.
template <class... Arguments>
int Nvml::call(const char* name, Arguments... arguments) const {
  auto* const function = reinterpret_cast<int (*)(Arguments...)>(dlsym(library_, name));
  return function == nullptr ? kNotSupported : function(arguments...);
}

void Nvml::check(int code, const char* what) const {
  if (code == kSuccess) return;
  auto* const text = reinterpret_cast<const char* (*)(int)>(dlsym(library_, "nvmlErrorString"));
  throw NativeError(ErrorCode::kDevice, concat("Cannot read GPUs by NVML: ", what, ": ",
                                               text == nullptr ? "error" : text(code), " (", code, ")"));
}

std::unique_ptr<Nvml> Nvml::open() {
  void* const library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  std::unique_ptr<Nvml> nvml(new Nvml(library));
  nvml->check(nvml->call("nvmlInit_v2"), "nvmlInit_v2");
  nvml->watchXids();
  return nvml;
}

uint32_t Nvml::count() const {
  unsigned count = 0;
  check(call("nvmlDeviceGetCount_v2", &count), "nvmlDeviceGetCount_v2");
  return count;
}

std::optional<GpuReading> Nvml::read(uint32_t index) const {
  GpuReading found;
  const auto callOwn = [this](const char* name, auto... arguments) { return call(name, arguments...); };
  const Asker ask(callOwn, found);
  Device device = nullptr;
  if (ask.code("nvmlDeviceGetHandleByIndex_v2", index, &device) != kSuccess) {
    if (found.lost) return found;
    return std::nullopt;
  }
  const auto count = [&](const char* name, auto... arguments) -> std::optional<double> {
    return ask.template get<unsigned>(name, device, arguments...);
  };
  const auto longCount = [&](const char* name, auto... arguments) -> std::optional<double> {
    const auto value = ask.template get<unsigned long long>(name, device, arguments...);
    return value ? std::optional<double>(static_cast<double>(*value)) : std::nullopt;
  };
  const auto text = [&](const char* name) -> std::optional<std::string> {
    char bytes[kTextBytes] = {};
    if (ask.code(name, device, bytes, kTextBytes - 1) != kSuccess) return std::nullopt;
    return bytes;
  };
  found.uuid = text("nvmlDeviceGetUUID");
  found.name = text("nvmlDeviceGetName");
  if (const auto pci = ask.get<PciInfo>("nvmlDeviceGetPciInfo_v3", device)) found.busId = pci->busId;

  found.temperatureCelsius = count("nvmlDeviceGetTemperature", kTemperatureGpu);
  FieldValue field{};
  field.fieldId = kFieldMemoryTemperature;
  if (ask.code("nvmlDeviceGetFieldValues", device, 1, &field) == kSuccess)
    found.memoryTemperatureCelsius = numberOf(field);
  found.smClockMhz = count("nvmlDeviceGetClockInfo", kClockSm);
  found.memoryClockMhz = count("nvmlDeviceGetClockInfo", kClockMemory);
  found.clockReasons = longCount("nvmlDeviceGetCurrentClocksEventReasons");
  if (!found.clockReasons)  // its name before driver 535
    found.clockReasons = longCount("nvmlDeviceGetCurrentClocksThrottleReasons");
  found.powerMilliwatts = count("nvmlDeviceGetPowerUsage");
  found.powerLimitMilliwatts = count("nvmlDeviceGetEnforcedPowerLimit");
  if (const auto memory = ask.get<Memory>("nvmlDeviceGetMemoryInfo", device)) {
    found.memoryUsedBytes = static_cast<double>(memory->used);
    found.memoryTotalBytes = static_cast<double>(memory->total);
  }
  if (const auto used = ask.get<Utilization>("nvmlDeviceGetUtilizationRates", device))
    found.utilizationPercent = used->gpu;
  found.eccCorrected = longCount("nvmlDeviceGetTotalEccErrors", kErrorCorrected, kEccVolatile);
  found.eccUncorrected = longCount("nvmlDeviceGetTotalEccErrors", kErrorUncorrected, kEccVolatile);

  for (const int cause : kRetirementCauses) {
    unsigned pages = 0;
    unsigned long long* const addresses = nullptr;  // only how many
    const int code = ask.code("nvmlDeviceGetRetiredPages", device, cause, &pages, addresses);
    if (code == kSuccess || code == kInsufficientSize) found.retiredPages = sum(found.retiredPages, pages);
  }
  if (const auto pending = ask.get<int>("nvmlDeviceGetRetiredPagesPendingStatus", device))
    found.remapPending = *pending != 0;
  unsigned corrected = 0, uncorrected = 0, pending = 0, failed = 0;
  if (ask.code("nvmlDeviceGetRemappedRows", device, &corrected, &uncorrected, &pending, &failed) ==
      kSuccess) {
    found.remappedRowsCorrected = corrected;
    found.remappedRowsUncorrected = uncorrected;
    found.remapPending = pending != 0 || found.remapPending.value_or(false);
    found.remapFailed = failed != 0;
  }

  for (unsigned link = 0; link < kLinksMax; link++) {
    const auto up = ask.get<int>("nvmlDeviceGetNvLinkState", device, link);
    if (!up) continue;
    const auto errors = [&](int kind) { return longCount("nvmlDeviceGetNvLinkErrorCounter", link, kind); };
    found.links.push_back({link, *up != 0, errors(kLinkReplay), errors(kLinkRecovery),
                           sum(errors(kLinkCrcFlit), errors(kLinkCrcData))});
  }
  return found;
}

/// What goes wrong here takes the Xids alone: the kernel's log has them, too.
void Nvml::watchXids() {
  void* set = nullptr;
  unsigned count = 0;
  if (call("nvmlEventSetCreate", &set) != kSuccess) return;
  if (call("nvmlDeviceGetCount_v2", &count) != kSuccess) return;
  for (unsigned index = 0; index < count; index++) {
    Device device = nullptr;
    if (call("nvmlDeviceGetHandleByIndex_v2", index, &device) == kSuccess &&
        call("nvmlDeviceRegisterEvents", device, kEventXid, set) == kSuccess)
      events_ = set;
  }
}

std::vector<GpuXid> Nvml::xids() {
  std::vector<GpuXid> found;
  if (events_ == nullptr) return found;
  for (int i = 0; i < kXidsMax; i++) {
    EventData event{};
    const unsigned waitMs = 0;
    if (call("nvmlEventSetWait_v2", events_, &event, waitMs) != kSuccess) break;
    if (event.eventType != kEventXid) continue;
    PciInfo pci{};
    if (call("nvmlDeviceGetPciInfo_v3", event.device, &pci) != kSuccess) pci.busId[0] = '\0';
    found.push_back({pci.busId, static_cast<double>(event.eventData)});
  }
  return found;
}

}  // namespace goku
