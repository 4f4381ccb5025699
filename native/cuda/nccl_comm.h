// One communicator of NCCL that never blocks its thread: every call is followed by asking whether NCCL is
// done with it, and between two questions the group looks for what else may end the wait.
#pragma once

#include <memory>

#include "native/collectives/waiter.h"
#include "native/cuda/nccl_api.h"
#include "native/cuda/streams.h"

namespace goku::nccl {

/// NCCL cannot go on. It seldom knows which member is to blame; the host's lines do.
class Failure : public std::runtime_error {
 public:
  Failure(Result result, const std::string& what) : std::runtime_error(what), result_(result) {}
  Result result() const { return result_; }

 private:
  Result result_;
};

/// How long to sleep between two questions: short at first, since most operations are.
class Pause {
 public:
  std::chrono::microseconds next() {
    const auto now = time_;
    time_ = std::min(time_ + time_ / 2, std::chrono::microseconds(500));
    return now;
  }

 private:
  std::chrono::microseconds time_{10};
};

class Communicator {
 public:
  /// Connects `size` members; they all call with the same id. The waiter's time has begun. Throws Failure
  /// where NCCL refuses, FaultError for what the waiter finds and when the time is over.
  Communicator(const Api& api, collectives::Waiter& waiter, const UniqueId& id, int size, int rank);
  /// As abort().
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  /// Gives NCCL the calls that `calls` makes of it, as one group, and returns when the device has done them.
  /// Throws as the constructor.
  template <class Calls>
  void together(const Calls& calls) {
    check(api_.groupStart(), "ncclGroupStart");
    try {
      calls();
    } catch (...) {
      api_.groupEnd();  // the group's other calls go down with the communicator
      throw;
    }
    check(api_.groupEnd(), "ncclGroupEnd");
    settle();
    await(Event(stream_.get()));
  }
  /// Bytes of device memory, for `together`.
  void send(const std::byte* from, size_t bytes, int member);
  void receive(std::byte* to, size_t bytes, int member);
  void allGather(const std::byte* from, std::byte* to, size_t bytesEach);
  void broadcast(std::byte* data, size_t bytes, int root);

  /// Returns when the device has passed the event.
  void await(const Event& event);

  /// Frees the device from whatever it waits for. Idempotent.
  void abort() noexcept;
  /// Ends it in good order, as far as that takes no longer than a few seconds.
  void close() noexcept;

 private:
  void check(Result result, const char* call) const;
  /// Until NCCL has taken what it was given.
  void settle();
  Result state() const;
  [[noreturn]] void fail(Result result, const char* call) const;

  const Api& api_;
  collectives::Waiter& waiter_;
  Comm comm_ = nullptr;
  // Its own: a thread of NCCL's launches here, for which a stream of this thread's would be another.
  const Stream stream_{Priority::kLowest};
};

}  // namespace goku::nccl
