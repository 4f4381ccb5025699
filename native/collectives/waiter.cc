#include "native/collectives/waiter.h"

#include <algorithm>
#include <thread>

namespace goku::collectives {

Waiter::Waiter(const GroupOptions& options, Mesh& mesh, Segment* segment, std::vector<int> localMembers)
    : options_(options), mesh_(mesh), segment_(segment), localMembers_(std::move(localMembers)) {
  self_ = static_cast<int>(std::find(localMembers_.begin(), localMembers_.end(), options.rank) -
                           localMembers_.begin());
  remote_ = segment_ == nullptr || static_cast<int>(localMembers_.size()) < options.size();
}

void Waiter::begin() {
  deadline_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                 std::chrono::duration<double, std::milli>(options_.timeoutMs));
  // A peer may have died long ago, while the group was idle.
  look();
}

uint32_t Waiter::seen() const { return segment_ == nullptr ? 0 : segment_->bell(self_); }

bool Waiter::sleep(uint32_t seen, const std::vector<pollfd>& data) {
  if (!remote_) {
    if (segment_->fallAsleep(self_, seen, Segment::Sleep::kFutex)) segment_->futexWait(self_, seen, kSliceMs);
    segment_->wakeUp(self_);
    return look();
  }
  if (segment_ != nullptr && !segment_->fallAsleep(self_, seen, Segment::Sleep::kPoll)) return look();
  fds_.clear();
  mesh_.appendPollFds(fds_);
  const size_t control = fds_.size();
  fds_.insert(fds_.end(), data.begin(), data.end());
  ::poll(fds_.data(), fds_.size(), kSliceMs);
  if (segment_ != nullptr) segment_->wakeUp(self_);
  const bool told =
      std::any_of(fds_.begin(), fds_.begin() + control, [](const pollfd& fd) { return fd.revents != 0; });
  if (told) mesh_.pump();
  return look();
}

void Waiter::glance() { look(); }

bool Waiter::rest(std::chrono::microseconds time) {
  std::this_thread::sleep_for(time);
  return look();
}

bool Waiter::look() {
  mesh_.checkAborted();
  const Clock::time_point now = Clock::now();
  if (now - looked_ >= std::chrono::milliseconds(kSliceMs)) {
    looked_ = now;
    mesh_.pump();
  }
  return now < deadline_;
}

void Waiter::ring(int localMember) {
  if (segment_->ring(localMember) == Segment::Sleep::kPoll) {
    mesh_.send(localMembers_[localMember], ControlFrame{.type = FrameType::kDoorbell});
  }
}

void Waiter::ringAll() {
  for (int i = 0; i < static_cast<int>(localMembers_.size()); ++i) {
    if (i != self_) ring(i);
  }
}

void Waiter::wake() {
  mesh_.wake();
  if (segment_ != nullptr) segment_->ring(self_);
}

}  // namespace goku::collectives
