// One collective as its caller asked for it, and how far it is.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "native/collectives/fault.h"
#include "native/collectives/options.h"
#include "native/tensor.h"

namespace goku::collectives {

/// Values of COLLECTIVE in worker/pages.ts.
enum class Kind : uint32_t {
  kAllGather = 1,
  kReduceScatter = 2,
  kAllReduce = 3,
  kAllToAll = 4,
  kBroadcast = 5,
  kBarrier = 6,
  kConnect = 7,
};

constexpr const char* kindName(Kind kind) {
  switch (kind) {
    case Kind::kAllGather:
      return "allGather";
    case Kind::kReduceScatter:
      return "reduceScatter";
    case Kind::kAllReduce:
      return "allReduce";
    case Kind::kAllToAll:
      return "allToAll";
    case Kind::kBroadcast:
      return "broadcast";
    case Kind::kBarrier:
      return "barrier";
    case Kind::kConnect:
      return "connect";
  }
  return "collective";
}

/// Set up by the caller's thread, run by the group's thread. The tensors are held by reference until it is
/// done.
struct Operation {
  Kind kind = Kind::kBarrier;
  DType dtype = DType::kU8;
  Tensor out;                      // also what broadcast and allReduce work on in place
  Tensor input;                    // data null: none
  std::vector<int64_t> outCounts;  // elements per member; the `counts` of all-gather and reduce-scatter
  std::vector<int64_t> inCounts;   // all-to-all only
  std::vector<bool> contributes;   // reduce-scatter only
  Reduction reduction = Reduction::kSum;
  int root = 0;
  std::shared_ptr<void> before;  // DeviceLines::mark(); null: the host's lines carry the payload

  void finish(std::optional<NativeError> error) {
    {
      const std::lock_guard lock(mutex);
      done = true;
      this->error = std::move(error);
      out = Tensor{};
      input = Tensor{};
      before = nullptr;
    }
    finished.notify_all();
  }

  std::mutex mutex;  // guards what follows
  std::condition_variable finished;
  bool done = false;
  std::optional<NativeError> error;
};

}  // namespace goku::collectives
