#include "native/collectives/mesh.h"

#include <sys/eventfd.h>
#include <sys/syscall.h>

#include <chrono>

#include "native/collectives/pages.h"
#include "native/collectives/socket.h"

namespace goku::collectives {
namespace {

// How long the last frames of a peer whose data connection broke may lag behind on its control connection.
constexpr std::chrono::milliseconds kExplainTime{50};

template <typename T>
T loadWord(const std::byte* page, uint32_t offset) {
  return __atomic_load_n(reinterpret_cast<const T*>(page + offset), __ATOMIC_ACQUIRE);
}

/// A handle of a process on this node. Absent where the kernel has none, or where the pid is of another pid
/// namespace.
UniqueFd openProcess(int64_t pid) {
  return pid > 0 ? UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0)))
                 : UniqueFd();
}

}  // namespace

Mesh::Mesh(const GroupOptions& options)
    : options_(options), peers_(options.members.size()), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  for (int member = 0; member < options.size(); ++member) {
    if (member == options.rank) continue;
    if (options.members[member].nodeId == options.members[options.rank].nodeId) {
      peers_[member].process = openProcess(options.members[member].pid);
    }
  }
}

void Mesh::connect(int member, UniqueFd control) { peers_[member].control = std::move(control); }

void Mesh::send(int member, const ControlFrame& frame) noexcept {
  const int fd = peers_[member].control.get();
  if (fd >= 0) sendWhole(fd, &frame, sizeof(frame));
}

void Mesh::sendAll(const ControlFrame& frame) noexcept {
  for (int member = 0; member < options_.size(); ++member) send(member, frame);
}

void Mesh::checkAborted() const {
  if (abortRequested_.load(std::memory_order_acquire)) {
    throw FaultError(ErrorCode::kAborted, -1, "the group was aborted by this rank");
  }
  if (loadWord<uint64_t>(options_.abortPage.get(), pages::control::abortGeneration) < options_.generation)
    return;
  const int culprit = loadWord<int32_t>(options_.abortPage.get(), pages::control::abortPeer);
  std::string reason = "generation " + std::to_string(options_.generation) + " was aborted from outside";
  if (culprit >= 0) reason += " because of rank " + std::to_string(culprit);
  throw FaultError(ErrorCode::kAborted, culprit, reason);
}

void Mesh::pump() {
  checkAborted();
  uint64_t wakes = 0;
  [[maybe_unused]] const ssize_t ignored = ::read(wake_.get(), &wakes, sizeof(wakes));
  for (int member = 0; member < options_.size(); ++member) {
    readProcess(member);
    read(member);  // after its process, since a goodbye may have come just before the end
  }
  if (told_ && told_->peer >= 0) throw FaultError(*told_);
  for (int member = 0; member < options_.size(); ++member) {
    const Peer& peer = peers_[member];
    if (peer.death != nullptr && !peer.left) throwDied(member, peer.death);
  }
  if (told_) throw FaultError(*told_);
}

void Mesh::appendPollFds(std::vector<pollfd>& fds) const {
  fds.push_back({wake_.get(), POLLIN, 0});
  for (const Peer& peer : peers_) {
    if (peer.control) fds.push_back({peer.control.get(), POLLIN | POLLRDHUP, 0});
    if (peer.process && !peer.left) fds.push_back({peer.process.get(), POLLIN, 0});
  }
}

void Mesh::explainBroken(const LinkBroken& broken) {
  const int member = broken.member;
  const auto deadline = std::chrono::steady_clock::now() + kExplainTime;
  do {
    pump();
    if (peers_[member].left) break;
    pollfd control{peers_[member].control.get(), POLLIN | POLLRDHUP, 0};
    ::poll(&control, 1, 5);
  } while (std::chrono::steady_clock::now() < deadline);
  if (peers_[member].left) throwDied(member, "it has closed the group");
  if (broken.code == ErrorCode::kPeerDied) throwDied(member, broken.how.c_str());
  throw FaultError(broken.code, -1, broken.how);
}

void Mesh::requestAbort() {
  abortRequested_.store(true, std::memory_order_release);
  wake();
}

void Mesh::wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = ::write(wake_.get(), &one, sizeof(one));
}

void Mesh::readProcess(int member) {
  Peer& peer = peers_[member];
  if (!peer.process || peer.left) return;
  pollfd process{peer.process.get(), POLLIN, 0};
  if (::poll(&process, 1, 0) > 0) peer.death = "its process has ended";
}

void Mesh::read(int member) {
  Peer& peer = peers_[member];
  while (peer.control) {
    const long got = receiveSome(peer.control.get(), peer.partial.data() + peer.partialBytes,
                                 peer.partial.size() - peer.partialBytes);
    if (got == 0) return;
    if (got < 0) {
      peer.control.reset();
      if (peer.death == nullptr) peer.death = "its connection closed without a goodbye";
      return;
    }
    peer.partialBytes += static_cast<size_t>(got);
    if (peer.partialBytes < peer.partial.size()) continue;
    peer.partialBytes = 0;
    ControlFrame frame;
    std::memcpy(&frame, peer.partial.data(), sizeof(frame));
    if (handle(member, frame)) continue;
    // Not our protocol: that connection cannot be trusted any more, nor can the group live without it.
    peer.control.reset();
    peer.death = "it sent a frame that is none of ours";
  }
}

bool Mesh::handle(int member, const ControlFrame& frame) {
  Peer& peer = peers_[member];
  if (frame.magic != kFrameMagic) return false;
  switch (frame.type) {
    case FrameType::kDoorbell:
      return true;
    case FrameType::kReady:
      peer.ready = true;
      return true;
    case FrameType::kGoodbye:
      peer.left = true;
      return true;
    case FrameType::kSegmentReady:
    case FrameType::kSegmentMapped:
      peer.segmentNonce = frame.nonce;
      peer.segmentPlace = frame.value;
      return true;
    case FrameType::kAbort:
      if (frame.code == 0 || frame.code > std::size(kWireCodes) || frame.peer < -1) return false;
      peer.left = true;  // what ends after its own abort has not died
      if (!told_ || told_->peer < 0) told_ = toldFault(member, frame);
      return true;
  }
  return false;
}

Fault Mesh::toldFault(int member, const ControlFrame& frame) const {
  const ErrorCode code = kWireCodes[frame.code - 1];
  const std::string sender = "rank " + std::to_string(options_.members[member].rank);
  const std::string culprit = "rank " + std::to_string(frame.peer);
  switch (code) {
    case ErrorCode::kPeerDied:
      if (frame.peer < 0) break;  // its lines between devices broke, it cannot tell at whose end
      return {code, frame.peer, culprit + " died, says " + sender};
    case ErrorCode::kTimeout:
      return {code, frame.peer, culprit + " kept the others waiting too long, says " + sender};
    case ErrorCode::kAborted:
      return {code, frame.peer, sender + " was aborted"};
    case ErrorCode::kArgument:
      return {code, frame.peer, sender + " refused to go on, see its own error"};
    case ErrorCode::kOutOfMemory:
    case ErrorCode::kIo:
    case ErrorCode::kDevice:
      break;
  }
  // Seen by that rank alone: its own report is the cause, this one an echo of it.
  return {ErrorCode::kAborted, options_.members[member].rank, sender + " cannot go on, see its own error"};
}

void Mesh::throwDied(int member, const char* how) {
  const int rank = options_.members[member].rank;
  throw FaultError(ErrorCode::kPeerDied, rank, "rank " + std::to_string(rank) + " died (" + how + ")");
}

}  // namespace goku::collectives
