// Streams beside the compute stream, and the events that order them. The host never waits for an order
// between two streams.
#pragma once

#include "native/cuda/device.h"

namespace goku {

enum class Priority { kLowest, kHighest };

/// Does not wait for the default stream, which nothing uses.
class Stream {
 public:
  explicit Stream(Priority priority);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Of this thread, for copies that training does not wait for: with the lowest priority, so that their
/// kernels take what the compute stream leaves.
cudaStream_t copyStream();

/// A place in a stream's work.
class Event {
 public:
  Event();
  /// After what the stream was given until now.
  explicit Event(cudaStream_t stream);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  /// After what the stream was given until now.
  void record(cudaStream_t stream);
  /// What the stream is given from here on comes after this place; the host goes on at once.
  void holdBack(cudaStream_t stream) const;
  /// Whether the device is past it. Throws NATIVE_DEVICE where the device has failed meanwhile.
  bool passed() const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace goku
