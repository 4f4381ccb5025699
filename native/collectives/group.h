// One communicator: its thread, its queue of collectives, its connections.
//
// Callers start operations and wait for them; the group's thread forms the connections first and then runs
// the operations one by one in the order of their start. The first fault ends the group: peers are told with
// the culprit's name, and every operation after it fails with the same error. Other groups are not touched.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "native/collectives/device_lines.h"
#include "native/collectives/listener.h"
#include "native/collectives/mesh.h"
#include "native/collectives/operation.h"
#include "native/collectives/options.h"
#include "native/collectives/progress.h"
#include "native/collectives/waiter.h"

namespace goku::collectives {

struct Lines;

class Group {
 public:
  /// `formed` is called once, on the group's thread: with nullopt when all members are connected.
  using Formed = std::function<void(std::optional<NativeError>)>;
  Group(GroupOptions options, std::shared_ptr<Listener> listener, std::shared_ptr<Progress> progress,
        Formed formed);
  /// As close().
  ~Group();

  const GroupOptions& options() const { return options_; }
  /// Once formed: lines between devices, null where there are none.
  const DeviceLines* deviceLines() const { return device_.lines.get(); }
  /// Once formed: DeviceLinesFormed::carrier.
  const std::string& carrier() const { return device_.carrier; }
  void start(std::shared_ptr<Operation> operation);
  /// Idempotent, from any thread.
  void abort();
  /// Says goodbye where all operations are done, else aborts; then ends the thread. Idempotent.
  void close();
  /// Ends the thread without a word, as the end of the process would: to its peers this rank has died.
  void abandon();

 private:
  void main();
  bool form(Lines& lines);
  void gather(Lines& lines, std::byte* all, size_t bytesEach);
  /// Why the operation failed, if it did.
  std::optional<NativeError> run(Lines& lines, Operation& operation);
  /// Ends the group: tells the peers, keeps the first fault.
  void fail(const Fault& fault);
  NativeError errorOf(Kind kind, const Fault& fault) const;
  std::shared_ptr<Operation> next();

  const GroupOptions options_;
  std::shared_ptr<Listener> listener_;
  std::shared_ptr<Progress> progress_;
  Formed formed_;
  Mesh mesh_;
  DeviceLinesFormed device_;  // changed by the group's thread alone, while nobody else may look
  std::atomic<bool> silent_{false};
  uint64_t sequence_ = 0;       // group's thread
  std::optional<Fault> fault_;  // group's thread

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Operation>> queue_;
  size_t unfinished_ = 0;  // queued or running, less those whose caller is about to be told
  bool closing_ = false;
  bool aborting_ = false;
  Waiter* waiter_ = nullptr;  // while lines exist, for waking the thread
  std::thread thread_;
};

}  // namespace goku::collectives
