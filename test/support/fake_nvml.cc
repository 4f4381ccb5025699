// A stand-in for NVIDIA's libnvidia-ml.so.1, for machines without a GPU. It answers each call from the file
// $GOKU_FAKE_NVML, a line for each value (fake_nvml.ts writes it):
//
//   count 2
//   0.Temperature.0 54          nvmlDeviceGetTemperature(device 0, sensor 0)
//   0.PowerUsage !3             fails by this nvmlReturn_t
//   1.MemoryInfo hang           never comes back
//
// What the file does not name is not supported. -DOLD_LIBRARY leaves out functions that older drivers lack.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

namespace {

constexpr int kSuccess = 0, kNotSupported = 3, kInsufficientSize = 7, kTimeout = 10;

using Device = void*;

Device deviceAt(unsigned index) { return reinterpret_cast<Device>(static_cast<size_t>(index) + 1); }

/// What the file says of a key; nullptr-like empty: nothing.
std::string valueOf(const std::string& key) {
  std::ifstream file(std::getenv("GOKU_FAKE_NVML"));
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, key.size() + 1, key + " ") == 0) return line.substr(key.size() + 1);
  return "";
}

int read(const std::string& key, std::string& value) {
  value = valueOf(key);
  while (value == "hang") pause();
  if (value.empty()) return kNotSupported;
  return value[0] == '!' ? std::atoi(value.c_str() + 1) : kSuccess;
}

std::string keyOf(Device device, const char* name) {
  return std::to_string(reinterpret_cast<size_t>(device) - 1) + "." + name;
}

std::string keyOf(Device device, const char* name, int argument) {
  return keyOf(device, name) + "." + std::to_string(argument);
}

template <class... T>
int numbers(const std::string& key, T*... out) {
  std::string value;
  const int code = read(key, value);
  std::istringstream words(value);
  if (code == kSuccess) (void)(words >> ... >> *out);
  return code;
}

int text(const std::string& key, char* out, unsigned bytes) {
  std::string value;
  const int code = read(key, value);
  if (code == kSuccess) std::snprintf(out, bytes, "%s", value.c_str());
  return code;
}

/// As a call that works where the file says nothing.
int plain(const std::string& key) {
  std::string value;
  const int code = read(key, value);
  return value.empty() ? kSuccess : code;
}

}  // namespace

extern "C" {

struct nvmlPciInfo_t {
  char busIdLegacy[16];
  unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
  char busId[32];
};

struct nvmlMemory_t {
  unsigned long long total, free, used;
};

struct nvmlUtilization_t {
  unsigned gpu, memory;
};

struct nvmlFieldValue_t {
  unsigned fieldId, scopeId;
  long long timestamp, latencyUsec;
  int valueType, nvmlReturn;
  unsigned long long value;
};

struct nvmlEventData_t {
  Device device;
  unsigned long long eventType, eventData;
  unsigned gpuInstanceId, computeInstanceId;
};

int nvmlInit_v2() { return plain("init"); }
const char* nvmlErrorString(int code) { return code == 9 ? "Driver Not Loaded" : "Some Error"; }
int nvmlDeviceGetCount_v2(unsigned* count) { return numbers("count", count); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) {
  *device = deviceAt(index);
  return plain(keyOf(*device, "handle"));
}

int nvmlDeviceGetUUID(Device device, char* out, unsigned bytes) {
  return text(keyOf(device, "UUID"), out, bytes);
}

int nvmlDeviceGetName(Device device, char* out, unsigned bytes) {
  return text(keyOf(device, "Name"), out, bytes);
}

int nvmlDeviceGetPciInfo_v3(Device device, nvmlPciInfo_t* pci) {
  return text(keyOf(device, "PciInfo"), pci->busId, sizeof pci->busId);
}

int nvmlDeviceGetTemperature(Device device, int sensor, unsigned* degrees) {
  return numbers(keyOf(device, "Temperature", sensor), degrees);
}

int nvmlDeviceGetFieldValues(Device device, int count, nvmlFieldValue_t* fields) {
  for (int i = 0; i < count; i++) {
    fields[i].valueType = 3;  // unsigned long long
    fields[i].nvmlReturn =
        numbers(keyOf(device, "FieldValues", static_cast<int>(fields[i].fieldId)), &fields[i].value);
  }
  return kSuccess;
}

int nvmlDeviceGetClockInfo(Device device, int clock, unsigned* mhz) {
  return numbers(keyOf(device, "ClockInfo", clock), mhz);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long* reasons) {
  return numbers(keyOf(device, "ClocksThrottleReasons"), reasons);
}

int nvmlDeviceGetPowerUsage(Device device, unsigned* milliwatts) {
  return numbers(keyOf(device, "PowerUsage"), milliwatts);
}

int nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned* milliwatts) {
  return numbers(keyOf(device, "EnforcedPowerLimit"), milliwatts);
}

int nvmlDeviceGetMemoryInfo(Device device, nvmlMemory_t* memory) {
  return numbers(keyOf(device, "MemoryInfo"), &memory->total, &memory->free, &memory->used);
}

int nvmlDeviceGetUtilizationRates(Device device, nvmlUtilization_t* rates) {
  return numbers(keyOf(device, "UtilizationRates"), &rates->gpu, &rates->memory);
}

int nvmlDeviceGetTotalEccErrors(Device device, int kind, int counter, unsigned long long* count) {
  if (counter != 0) return kNotSupported;  // volatile ones alone
  return numbers(keyOf(device, "TotalEccErrors", kind), count);
}

int nvmlDeviceGetRetiredPages(Device device, int cause, unsigned* count, unsigned long long*) {
  const int code = numbers(keyOf(device, "RetiredPages", cause), count);
  return code == kSuccess && *count > 0 ? kInsufficientSize : code;
}

int nvmlDeviceGetRetiredPagesPendingStatus(Device device, int* pending) {
  return numbers(keyOf(device, "RetiredPagesPendingStatus"), pending);
}

int nvmlDeviceGetNvLinkState(Device device, unsigned link, int* up) {
  return numbers(keyOf(device, "NvLinkState", static_cast<int>(link)), up);
}

int nvmlDeviceGetNvLinkErrorCounter(Device device, unsigned link, int kind, unsigned long long* count) {
  return numbers(keyOf(device, "NvLinkErrorCounter", static_cast<int>(link)) + "." + std::to_string(kind),
                 count);
}

#ifndef OLD_LIBRARY
int nvmlDeviceGetCurrentClocksEventReasons(Device device, unsigned long long* reasons) {
  return numbers(keyOf(device, "ClocksEventReasons"), reasons);
}

int nvmlDeviceGetRemappedRows(Device device, unsigned* corrected, unsigned* uncorrected, unsigned* pending,
                              unsigned* failed) {
  return numbers(keyOf(device, "RemappedRows"), corrected, uncorrected, pending, failed);
}

int nvmlEventSetCreate(void** set) {
  static int one;
  *set = &one;
  return kSuccess;
}

int nvmlDeviceRegisterEvents(Device device, unsigned long long, void*) {
  return plain(keyOf(device, "RegisterEvents"));
}

/// Those of the line "xids 0 79 1 48" (device and number), each once.
int nvmlEventSetWait_v2(void*, nvmlEventData_t* event, unsigned) {
  static int told = 0;
  std::istringstream words(valueOf("xids"));
  unsigned device;
  for (int i = 0; words >> device >> event->eventData; i++) {
    if (i < told) continue;
    told++;
    event->device = deviceAt(device);
    event->eventType = 8;
    return kSuccess;
  }
  return kTimeout;
}
#endif

}  // extern "C"
