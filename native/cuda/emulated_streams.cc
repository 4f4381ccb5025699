#include "native/cuda/emulated_streams.h"

#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "native/cuda/emulated_device.h"
#include "native/cuda/emulated_memory.h"

namespace goku {
namespace emulated {

class Queue {
 public:
  /// Returns how many have been queued until then.
  uint64_t add(std::function<void()> work) {
    work_.push_back(std::move(work));
    return ++queued_;
  }
  uint64_t queued() const { return queued_; }
  bool isDone() const { return work_.empty(); }
  void runUntil(uint64_t count) {
    if (started_ >= count) return;
    const Opened opened;  // once for all of it
    while (started_ < count) {
      const std::function<void()> work = std::move(work_.front());
      work_.pop_front();
      started_++;  // first: work that fails is over, too
      work();
    }
  }

 private:
  std::deque<std::function<void()>> work_;
  uint64_t queued_ = 0, started_ = 0;
};

namespace {

/// Whatever is run or queued: work of one stream may run on the thread that waits for another's.
std::recursive_mutex& turn() {
  static std::recursive_mutex mutex;
  return mutex;
}

std::set<std::shared_ptr<Queue>>& queues() {
  static std::set<std::shared_ptr<Queue>> queues;
  return queues;
}

}  // namespace

void runStreams() {
  const std::lock_guard lock(turn());
  for (const auto& queue : std::vector(queues().begin(), queues().end())) queue->runUntil(queue->queued());
}

}  // namespace emulated

/// What a stream had been given when it was recorded; none: it has not been.
struct CUevent_st {
  std::shared_ptr<emulated::Queue> queue;
  uint64_t count = 0;
  std::shared_ptr<CUstream_st::Groups> groups;
  uint64_t given = 0;
};

namespace emulated {

void enqueue(cudaStream_t stream, std::function<void()> work) {
  const std::lock_guard lock(turn());
  stream->queue->add(std::move(work));
}

}  // namespace emulated

using emulated::turn;

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  const std::lock_guard lock(turn());
  *stream = new CUstream_st;
  (*stream)->queue = std::make_shared<emulated::Queue>();
  emulated::queues().insert((*stream)->queue);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(turn());
  if (stream->queue->isDone()) emulated::queues().erase(stream->queue);
  delete stream;  // what is queued runs all the same
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  {
    const std::lock_guard lock(turn());
    stream->queue->runUntil(stream->queue->queued());
  }
  while (stream->groups->done < stream->groups->given)
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->queue == nullptr) return cudaSuccess;
  // As it was recorded by now: it may be recorded again before this is its turn.
  emulated::enqueue(stream, [queue = event->queue, count = event->count] { queue->runUntil(count); });
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(turn());
  event->queue = stream->queue;
  event->count = stream->queue->queued();
  event->groups = stream->groups;
  event->given = stream->groups->given;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->queue == nullptr) return cudaSuccess;
  const std::lock_guard lock(turn());
  event->queue->runUntil(event->count);
  return event->groups->done >= event->given ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaDeviceSynchronize() {
  emulated::runStreams();
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t toPitch, const void* from, size_t fromPitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t stream) {
  if (width == 0 || height == 0) return cudaSuccess;
  const auto copy = [=](const void* source) {
    const emulated::Opened opened;
    for (size_t row = 0; row < height; row++)
      std::memcpy(static_cast<std::byte*>(to) + row * toPitch,
                  static_cast<const std::byte*>(source) + row * fromPitch, width);
  };
  if (emulated::isPageable(from)) {
    const auto* bytes = static_cast<const std::byte*>(from);
    emulated::enqueue(stream, [copy, read = std::vector(bytes, bytes + (height - 1) * fromPitch + width)] {
      copy(read.data());
    });
  } else {
    emulated::enqueue(stream, [copy, from] { copy(from); });
  }
  return emulated::isPageable(to) ? cudaStreamSynchronize(stream) : cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  emulated::enqueue(stream, [=] {
    const emulated::Opened opened;
    std::memset(to, value, bytes);
  });
  return cudaSuccess;
}

}  // namespace goku
