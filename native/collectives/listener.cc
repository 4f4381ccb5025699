#include "native/collectives/listener.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "native/collectives/fault.h"
#include "native/collectives/socket.h"

namespace goku::collectives {
namespace {

// A member says its Hello in one packet; whoever takes seconds for it is not one of ours.
constexpr std::chrono::seconds kHelloTime{5};
// Longer than members of one generation differ in reaching the same commCreate; dialling sides try again
// after it.
constexpr std::chrono::seconds kParkTime{30};
constexpr size_t kGuestsMax = 1024;
constexpr std::chrono::milliseconds kAcceptPause{100};

void wake(int eventFd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = ::write(eventFd, &one, sizeof(one));
}
void drain(int eventFd) {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t ignored = ::read(eventFd, &count, sizeof(count));
}

}  // namespace

Mailbox::Mailbox(GroupKey key, uint64_t membersDigest, uint32_t member, uint32_t size)
    : key_(std::move(key)),
      membersDigest_(membersDigest),
      member_(member),
      size_(size),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      booked_(size * 2, false) {}

std::vector<Mailbox::Arrival> Mailbox::take() {
  drain(wake_.get());
  const std::lock_guard lock(mutex_);
  return std::exchange(arrivals_, {});
}

bool Mailbox::book(const Hello& hello) {
  const std::lock_guard lock(mutex_);
  if (hello.membersDigest != membersDigest_ || hello.toMember != member_ || hello.fromMember >= size_ ||
      hello.fromMember <= member_) {
    return false;
  }
  const size_t slot = hello.fromMember * 2 + static_cast<size_t>(hello.channel);
  if (booked_[slot]) return false;
  booked_[slot] = true;
  return true;
}

void Mailbox::unbook(const Hello& hello) {
  const std::lock_guard lock(mutex_);
  booked_[hello.fromMember * 2 + static_cast<size_t>(hello.channel)] = false;
}

void Mailbox::put(Arrival arrival) {
  {
    const std::lock_guard lock(mutex_);
    arrivals_.push_back(std::move(arrival));
  }
  wake(wake_.get());
}

Listener::Listener(const std::string& host)
    : listening_(listenOn(host, 0)),
      wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      port_(portOf(listening_.get())) {
  thread_ = std::thread([this] { run(); });
}

Listener::~Listener() {
  stopping_ = true;
  wake(wake_.get());
  thread_.join();
}

void Listener::expect(std::shared_ptr<Mailbox> mailbox) {
  const std::lock_guard lock(mutex_);
  const GroupKey& key = mailbox->key();
  uint64_t& newest = newest_[key.job];
  if (key.generation < newest) {
    throw FaultError(ErrorCode::kAborted, -1,
                     "generation " + std::to_string(newest) + " of the job has begun here");
  }
  for (const auto& other : mailboxes_) {
    if (other->key() == key) {
      throw FaultError(ErrorCode::kArgument, -1,
                       "a group of that name is being created here, close it first");
    }
  }
  newest = key.generation;
  mailboxes_.push_back(std::move(mailbox));
  for (Guest& guest : guests_) {
    if (guest.parked) route(guest);
  }
  std::erase_if(guests_, [](const Guest& guest) { return guest.done; });
}

void Listener::forget(const std::shared_ptr<Mailbox>& mailbox) {
  const std::lock_guard lock(mutex_);
  std::erase(mailboxes_, mailbox);
}

ListenerCounters Listener::counters() {
  const std::lock_guard lock(mutex_);
  ListenerCounters counters = counters_;
  counters.parked =
      std::count_if(guests_.begin(), guests_.end(), [](const Guest& guest) { return guest.parked; });
  return counters;
}

void Listener::run() {
  std::vector<pollfd> fds;
  while (!stopping_) {
    int timeoutMs = -1;
    {
      const std::lock_guard lock(mutex_);
      const short listen = Clock::now() < acceptAgainAt_ ? 0 : POLLIN;
      fds.assign({{listening_.get(), listen, 0}, {wake_.get(), POLLIN, 0}});
      for (const Guest& guest : guests_) fds.push_back({guest.fd.get(), POLLIN | POLLRDHUP, 0});
      timeoutMs = pollTimeoutMs();
    }
    if (::poll(fds.data(), fds.size(), timeoutMs) < 0 && errno != EINTR) {
      // Out of memory, or of descriptors: that passes, and without this thread nobody could ever connect.
      std::this_thread::sleep_for(kAcceptPause);
    }
    const std::lock_guard lock(mutex_);
    if (fds[1].revents != 0) drain(wake_.get());
    // Registering a group may have taken guests away since the poll: every guest is tried, whatever the poll
    // said.
    for (Guest& guest : guests_) read(guest);
    if (fds[0].revents != 0) accept();
    std::erase_if(guests_, [](const Guest& guest) { return guest.done; });
  }
}

void Listener::accept() {
  for (;;) {
    UniqueFd fd(::accept4(listening_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      // Out of descriptors or memory: the socket stays readable, so it is left alone for a while.
      const bool none = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ECONNABORTED;
      if (!none) acceptAgainAt_ = Clock::now() + kAcceptPause;
      return;
    }
    Guest& guest = guests_.emplace_back();
    guest.fd = std::move(fd);
    guest.deadline = Clock::now() + kHelloTime;
    if (guests_.size() > kGuestsMax) {
      refuse(guest, WelcomeStatus::kUnknown, &ListenerCounters::refusedUnknown);
    } else {
      read(guest);
    }
  }
}

void Listener::read(Guest& guest) {
  if (guest.done) return;
  std::byte buffer[kHelloBytesMax + 1];
  const long got = receiveSome(guest.fd.get(), buffer, sizeof(buffer) - guest.bytes.size());
  if (got < 0) {  // it gave up by itself
    if (!guest.parked) ++counters_.refusedMalformed;
    guest.done = true;
  } else if (guest.parked) {
    if (got > 0) return refuse(guest, WelcomeStatus::kMismatch, &ListenerCounters::refusedMalformed);
    if (Clock::now() >= guest.deadline) {
      refuse(guest, WelcomeStatus::kUnknown, &ListenerCounters::refusedUnknown);
    }
  } else {
    guest.bytes.insert(guest.bytes.end(), buffer, buffer + got);
    switch (decodeHello(guest.bytes, &guest.hello)) {
      case HelloState::kWhole:
        return route(guest);
      case HelloState::kMalformed:
        return refuse(guest, WelcomeStatus::kMismatch, &ListenerCounters::refusedMalformed);
      case HelloState::kPartial:
        if (Clock::now() >= guest.deadline) {
          refuse(guest, WelcomeStatus::kMismatch, &ListenerCounters::refusedMalformed);
        }
    }
  }
}

void Listener::route(Guest& guest) {
  const uint64_t newest = newestOf(guest.hello.key.job);
  if (guest.hello.key.generation < newest) {
    return refuse(guest, WelcomeStatus::kStale, &ListenerCounters::refusedStale);
  }
  for (const auto& mailbox : mailboxes_) {
    if (mailbox->key() != guest.hello.key) continue;
    if (!mailbox->book(guest.hello)) {
      return refuse(guest, WelcomeStatus::kMismatch, &ListenerCounters::refusedMismatch);
    }
    const Welcome welcome{.status = WelcomeStatus::kAccepted, .generation = newest};
    guest.done = true;
    if (!sendWhole(guest.fd.get(), &welcome, sizeof(welcome))) return mailbox->unbook(guest.hello);
    ++counters_.accepted;
    mailbox->put({std::move(guest.fd), guest.hello.fromMember, guest.hello.channel});
    return;
  }
  if (!guest.parked) guest.deadline = Clock::now() + kParkTime;
  guest.parked = true;
}

void Listener::refuse(Guest& guest, WelcomeStatus status, uint64_t ListenerCounters::*counter) {
  ++(counters_.*counter);
  const Welcome welcome{.status = status, .generation = newestOf(guest.hello.key.job)};
  sendWhole(guest.fd.get(), &welcome, sizeof(welcome));
  guest.done = true;
}

uint64_t Listener::newestOf(const std::string& job) const {
  const auto found = newest_.find(job);
  return found == newest_.end() ? 0 : found->second;
}

int Listener::pollTimeoutMs() const {
  auto earliest = acceptAgainAt_ > Clock::now() ? acceptAgainAt_ : Clock::time_point::max();
  if (guests_.empty() && earliest == Clock::time_point::max()) return -1;
  for (const Guest& guest : guests_) earliest = std::min(earliest, guest.deadline);
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(earliest - Clock::now()).count() + 1;
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

}  // namespace goku::collectives
