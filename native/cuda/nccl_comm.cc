#include "native/cuda/nccl_comm.h"

#include <thread>

#include "native/collectives/fault.h"

namespace goku::nccl {
namespace {

// Three groups of a rank may each have a kernel waiting for its peers; beyond them every device that is
// supported has multiprocessors left for what the peers wait for (108 of an A100).
constexpr int kBlocksMax = 32;
constexpr std::chrono::seconds kCloseTime{5};

const char* nameOf(Result result) {
  switch (result) {
    case Result::kSuccess:
      return "success";
    case Result::kUnhandledCudaError:
      return "unhandled CUDA error";
    case Result::kSystemError:
      return "system error";
    case Result::kInternalError:
      return "internal error";
    case Result::kInvalidArgument:
      return "invalid argument";
    case Result::kInvalidUsage:
      return "invalid usage";
    case Result::kRemoteError:
      return "remote error";
    case Result::kInProgress:
      return "in progress";
  }
  return "unknown error";
}

}  // namespace

Communicator::Communicator(const Api& api, collectives::Waiter& waiter, const UniqueId& id, int size,
                           int rank)
    : api_(api), waiter_(waiter) {
  try {
    Config config;
    config.blocking = 0;
    config.maxCTAs = kBlocksMax;
    check(api_.commInitRankConfig(&comm_, size, id, rank, &config), "ncclCommInitRankConfig");
    settle();
  } catch (...) {
    abort();
    throw;
  }
}

Communicator::~Communicator() { abort(); }

void Communicator::send(const std::byte* from, size_t bytes, int member) {
  if (bytes > 0) check(api_.send(from, bytes, kUint8, member, comm_, stream_.get()), "ncclSend");
}

void Communicator::receive(std::byte* to, size_t bytes, int member) {
  if (bytes > 0) check(api_.receive(to, bytes, kUint8, member, comm_, stream_.get()), "ncclRecv");
}

void Communicator::allGather(const std::byte* from, std::byte* to, size_t bytesEach) {
  check(api_.allGather(from, to, bytesEach, kUint8, comm_, stream_.get()), "ncclAllGather");
}

void Communicator::broadcast(std::byte* data, size_t bytes, int root) {
  check(api_.broadcast(data, data, bytes, kUint8, root, comm_, stream_.get()), "ncclBroadcast");
}

void Communicator::await(const Event& event) {
  for (Pause pause; !event.passed();) {
    if (const Result now = state(); now != Result::kSuccess && now != Result::kInProgress)
      fail(now, "an operation");
    if (!waiter_.rest(pause.next()))
      throw collectives::FaultError(ErrorCode::kTimeout, -1,
                                    "every member has entered it, but its payload did not arrive in time; "
                                    "NCCL_DEBUG=INFO shows what NCCL waits for");
  }
  // What NCCL gave up may look done.
  if (const Result now = state(); now != Result::kSuccess) fail(now, "an operation");
}

void Communicator::abort() noexcept {
  if (comm_ == nullptr) return;
  api_.commAbort(comm_);
  comm_ = nullptr;
  // NCCL may still be at it, and what its kernels write to belongs to somebody else when this returns. A
  // device that does not let go of it holds the process, which its agent ends then.
  cudaStreamSynchronize(stream_.get());
}

void Communicator::close() noexcept {
  if (comm_ == nullptr) return;
  const auto deadline = std::chrono::steady_clock::now() + kCloseTime;
  Result now = api_.commFinalize(comm_);
  for (Pause pause; now == Result::kInProgress && std::chrono::steady_clock::now() < deadline;) {
    std::this_thread::sleep_for(pause.next());
    now = state();
  }
  if (now != Result::kSuccess) return abort();
  api_.commDestroy(comm_);
  comm_ = nullptr;
}

void Communicator::check(Result result, const char* call) const {
  if (result != Result::kSuccess && result != Result::kInProgress) fail(result, call);
}

void Communicator::settle() {
  for (Pause pause;;) {
    const Result now = state();
    if (now == Result::kSuccess) return;
    if (now != Result::kInProgress) fail(now, "its start");
    if (!waiter_.rest(pause.next()))
      throw collectives::FaultError(ErrorCode::kTimeout, -1,
                                    "NCCL did not connect the members in time; NCCL_DEBUG=INFO shows why");
  }
}

Result Communicator::state() const {
  Result now = Result::kSuccess;
  const Result asked = api_.commGetAsyncError(comm_, &now);
  return asked == Result::kSuccess ? now : asked;
}

void Communicator::fail(Result result, const char* call) const {
  const char* why = api_.getLastError(comm_);
  throw Failure(result, concat("NCCL: ", nameOf(result), " at ", call,
                               why != nullptr && *why != '\0' ? ", " : "", why != nullptr ? why : ""));
}

}  // namespace goku::nccl
