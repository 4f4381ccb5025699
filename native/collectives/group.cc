#include "native/collectives/group.h"

#include <pthread.h>

#include <algorithm>
#include <iterator>

#include "native/collectives/exchange.h"
#include "native/collectives/forming.h"
#include "native/collectives/schedule.h"

namespace goku::collectives {

Group::Group(GroupOptions options, std::shared_ptr<Listener> listener, std::shared_ptr<Progress> progress,
             Formed formed)
    : options_(std::move(options)),
      listener_(std::move(listener)),
      progress_(std::move(progress)),
      formed_(std::move(formed)),
      mesh_(options_) {
  thread_ = std::thread([this] { main(); });
}

Group::~Group() { close(); }

void Group::start(std::shared_ptr<Operation> operation) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(operation));
    ++unfinished_;
  }
  changed_.notify_all();
}

void Group::abort() {
  mesh_.requestAbort();
  {
    const std::lock_guard lock(mutex_);
    aborting_ = true;
    if (waiter_ != nullptr) waiter_->wake();
  }
  changed_.notify_all();
}

void Group::close() {
  bool busy = false;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    busy = unfinished_ > 0 || waiter_ == nullptr;
  }
  if (busy) abort();
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Group::abandon() {
  silent_ = true;
  abort();
  close();
}

void Group::main() {
  ::pthread_setname_np(::pthread_self(), ("comm " + options_.name).substr(0, 15).c_str());
  Lines lines;
  const bool formed = form(lines);
  while (const std::shared_ptr<Operation> operation = formed ? next() : nullptr) {
    std::optional<NativeError> error = run(lines, *operation);
    {
      // Before the caller hears of the end: one that closes at once must not abort those still at work.
      const std::lock_guard lock(mutex_);
      --unfinished_;
    }
    operation->finish(std::move(error));
  }
  if (device_.lines) fault_ ? device_.lines->abort() : device_.lines->close();
  const std::lock_guard lock(mutex_);
  waiter_ = nullptr;
}

bool Group::form(Lines& lines) {
  const uint64_t number =
      progress_->enter(options_.progressPage.get(), options_.generation, Kind::kConnect, options_.name, 0);
  try {
    lines = Forming(options_, mesh_, listener_.get()).run();
    device_ = formDeviceLines(options_, *lines.waiter, [this, &lines](std::byte* all, size_t bytesEach) {
      gather(lines, all, bytesEach);
    });
  } catch (const FaultError& error) {
    fail(error.fault());
    formed_(errorOf(Kind::kConnect, *fault_));
    return false;
  }
  progress_->complete(options_.progressPage.get(), options_.generation, number);
  {
    const std::lock_guard lock(mutex_);
    waiter_ = lines.waiter.get();
  }
  formed_(std::nullopt);
  return true;
}

void Group::gather(Lines& lines, std::byte* all, size_t bytesEach) {
  Operation operation;
  operation.kind = Kind::kAllGather;
  operation.out = {.storage = nullptr,
                   .data = all,
                   .count = static_cast<int64_t>(bytesEach) * options_.size(),
                   .dtype = DType::kU8};
  operation.input = {.storage = nullptr,
                     .data = all + static_cast<size_t>(options_.rank) * bytesEach,
                     .count = static_cast<int64_t>(bytesEach),
                     .dtype = DType::kU8};
  operation.outCounts.assign(options_.members.size(), static_cast<int64_t>(bytesEach));
  Exchange exchange(options_, mesh_, lines);
  Schedule schedule = makeSchedule(options_, exchange, operation, ++sequence_);
  exchange.run(schedule.terms, schedule.transfers);
}

/// The next operation; null when the group is closed. Sleeps while there is none.
std::shared_ptr<Operation> Group::next() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (aborting_ && !fault_) fail({ErrorCode::kAborted, -1, "the group was aborted by this rank"});
    if (!queue_.empty()) {
      std::shared_ptr<Operation> operation = std::move(queue_.front());
      queue_.pop_front();
      return operation;
    }
    if (closing_) break;
    changed_.wait(lock);
  }
  if (!fault_) mesh_.sendAll(ControlFrame{.type = FrameType::kGoodbye});
  return nullptr;
}

std::optional<NativeError> Group::run(Lines& lines, Operation& operation) {
  if (fault_) return errorOf(operation.kind, *fault_);
  Exchange exchange(options_, mesh_, lines);
  Schedule schedule = makeSchedule(options_, exchange, operation, ++sequence_);
  const bool onDevice = operation.before != nullptr;
  try {
    if (onDevice) device_.lines->arrive(operation);
    const uint64_t number = progress_->enter(options_.progressPage.get(), options_.generation, operation.kind,
                                             options_.name, schedule.bytes());
    if (onDevice) {
      schedule.announceOnly();
      exchange.run(schedule.terms, schedule.transfers);
      device_.lines->run(operation);
    } else {
      exchange.run(schedule.terms, schedule.transfers);
      if (schedule.finish) schedule.finish();
    }
    progress_->complete(options_.progressPage.get(), options_.generation, number);
  } catch (const FaultError& error) {
    fail(error.fault());
    // After the others were told why, and before the caller uses its memory for something else.
    if (lines.segment) lines.segment->withdraw(lines.self);
    if (device_.lines) device_.lines->abort();
    return errorOf(operation.kind, *fault_);
  }
  return std::nullopt;
}

void Group::fail(const Fault& fault) {
  fault_ = fault;
  if (silent_) return;
  const auto code =
      std::find(std::begin(kWireCodes), std::end(kWireCodes), fault.code) - std::begin(kWireCodes);
  mesh_.sendAll(ControlFrame{.type = FrameType::kAbort,
                             .code = static_cast<uint16_t>(code + 1),
                             .peer = static_cast<int32_t>(fault.peer)});
}

NativeError Group::errorOf(Kind kind, const Fault& fault) const {
  const std::string what = kind == Kind::kConnect
                               ? "form group "
                               : concat("finish ", kindName(kind), " ", sequence_, " of group ");
  return NativeError(
      fault.code,
      concat("Cannot ", what, options_.name, " in generation ", options_.generation, ": ", fault.reason),
      fault.peer, kindName(kind));
}

}  // namespace goku::collectives
