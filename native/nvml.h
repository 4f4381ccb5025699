// What NVIDIA's management library (NVML, https://docs.nvidia.com/deploy/nvml-api) tells of the machine's
// GPUs. The library comes with the driver: it is looked for when it is asked for, so that builds and machines
// without it lack nothing. No header of NVIDIA's is needed: nvml.cc declares the few structures that it
// fills.
//
// Every call may hang for minutes where a GPU has fallen off the bus. Whoever calls is in a process that can
// be spared (worker/device/gpu_reader_main.ts).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace goku {

/// Errors of one NVLink since the driver was loaded; nullopt: not told.
struct NvLinkReading {
  uint32_t link = 0;
  bool up = false;
  std::optional<double> replays;
  std::optional<double> recoveries;
  std::optional<double> crcErrors;
};

/// One GPU; nullopt: this GPU, driver or library does not tell it.
struct GpuReading {
  /// The driver does not reach it, or says that it must be reset; what follows may be missing.
  bool lost = false;
  std::optional<std::string> uuid;
  std::optional<std::string> name;
  std::optional<std::string> busId;
  std::optional<double> temperatureCelsius;
  std::optional<double> memoryTemperatureCelsius;
  std::optional<double> smClockMhz;
  std::optional<double> memoryClockMhz;
  /// Bits of nvmlClocksEventReasons: why its clocks are not higher.
  std::optional<double> clockReasons;
  std::optional<double> powerMilliwatts;
  std::optional<double> powerLimitMilliwatts;
  std::optional<double> memoryUsedBytes;
  std::optional<double> memoryTotalBytes;
  std::optional<double> utilizationPercent;
  /// Since the driver was loaded.
  std::optional<double> eccCorrected;
  std::optional<double> eccUncorrected;
  /// In its life.
  std::optional<double> retiredPages;
  std::optional<double> remappedRowsCorrected;
  std::optional<double> remappedRowsUncorrected;
  /// A page or row waits for a reset to be replaced.
  std::optional<bool> remapPending;
  /// A row could not be replaced.
  std::optional<bool> remapFailed;
  std::vector<NvLinkReading> links;
};

/// An error that the driver reported of a GPU.
struct GpuXid {
  std::string busId;
  double xid = 0;
};

class Nvml {
 public:
  /// nullptr: there is no such library here. Throws NATIVE_DEVICE where the driver refuses.
  static std::unique_ptr<Nvml> open();

  /// GPUs that the driver knew when it was opened, lost ones too. Throws NATIVE_DEVICE.
  uint32_t count() const;
  /// In the order of their PCI addresses. nullopt: this process may not look at it.
  std::optional<GpuReading> read(uint32_t index) const;
  /// Those since the last time, the oldest first.
  std::vector<GpuXid> xids();

 private:
  explicit Nvml(void* library) : library_(library) {}

  template <class... Arguments>
  int call(const char* name, Arguments... arguments) const;
  void check(int code, const char* what) const;
  void watchXids();

  // Never closed: a driver that hangs would hang nvmlShutdown(), too, and the end of the process frees all.
  void* library_;
  /// nvmlEventSet_t; nullptr: there are no events.
  void* events_ = nullptr;
};

}  // namespace goku
