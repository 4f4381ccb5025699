#include "native/cuda/streams.h"

namespace goku {

Stream::Stream(Priority priority) {
  int lowest = 0, highest = 0;
  CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  CUDA_CHECK(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                          priority == Priority::kHighest ? highest : lowest));
}
Stream::~Stream() { cudaStreamDestroy(stream_); }

cudaStream_t computeStream() {
  thread_local const Stream stream(Priority::kHighest);
  return stream.get();
}

cudaStream_t copyStream() {
  thread_local const Stream stream(Priority::kLowest);
  return stream.get();
}

Event::Event() { CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
Event::Event(cudaStream_t stream) : Event() { record(stream); }
Event::~Event() { cudaEventDestroy(event_); }
void Event::record(cudaStream_t stream) { CUDA_CHECK(cudaEventRecord(event_, stream)); }
void Event::holdBack(cudaStream_t stream) const { CUDA_CHECK(cudaStreamWaitEvent(stream, event_, 0)); }

bool Event::passed() const {
  const cudaError_t error = cudaEventQuery(event_);
  if (error == cudaErrorNotReady) {
    cudaGetLastError();  // an answer, not a failure of the next call
    return false;
  }
  CUDA_CHECK(error);
  return true;
}

}  // namespace goku
