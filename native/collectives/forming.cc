#include "native/collectives/forming.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "native/collectives/fault.h"
#include "native/collectives/socket.h"
#include "native/collectives/tcp_link.h"

namespace goku::collectives {
namespace {

constexpr std::chrono::milliseconds kRedialTime{50};
// Endpoints are published after commListen, so a port that refuses belongs to a process that has gone. A
// little patience covers a full backlog.
constexpr std::chrono::seconds kRefusedTime{2};

std::string rankText(const GroupOptions& options, int member) {
  const Endpoint& endpoint = options.members[member];
  return concat("rank ", endpoint.rank, " at ", endpoint.host, ":", endpoint.port);
}

}  // namespace

uint64_t membersDigest(const GroupOptions& options) {
  uint64_t digest = fnv1a64(options.tcpOnly ? "tcp" : options.hostOnly ? "host" : "auto");
  for (const Endpoint& member : options.members)
    digest = fnv1a64(concat(member.rank, "@", member.nodeId, ";"), digest);
  return digest;
}

Forming::Forming(const GroupOptions& options, Mesh& mesh, Listener* listener)
    : options_(options), mesh_(mesh), listener_(listener), data_(options.members.size()) {
  deadline_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                 std::chrono::duration<double, std::milli>(options.timeoutMs));
  for (int member = 0; member < options.size(); ++member) {
    if (member == options.rank || options.local(member, options.rank)) local_.push_back(member);
  }
}

Forming::~Forming() {
  if (mailbox_) listener_->forget(mailbox_);
}

Lines Forming::run() {
  Lines lines;
  lines.links.resize(options_.members.size());
  lines.localMembers = local_;
  mesh_.checkAborted();
  if (options_.size() > 1) {
    mailbox_ = std::make_shared<Mailbox>(GroupKey{options_.job, options_.generation, options_.name},
                                         membersDigest(options_), options_.rank, options_.size());
    listener_->expect(mailbox_);
    connectAll();
    // Nothing more may arrive: its event, left readable by the last arrival, would turn every wait into a
    // spin.
    listener_->forget(mailbox_);
    mailbox_.reset();
    lines.segment = shareMemory();
  }
  lines.waiter = std::make_unique<Waiter>(options_, mesh_, lines.segment.get(), local_);
  const int self = static_cast<int>(std::find(local_.begin(), local_.end(), options_.rank) - local_.begin());
  for (int i = 0; i < static_cast<int>(local_.size()); ++i) {
    if (i == self) continue;
    lines.links[local_[i]] =
        std::make_unique<ShmLink>(options_, *lines.segment, *lines.waiter, self, i, local_[i]);
  }
  lines.self = self;
  if (lines.segment)
    lines.sharedOut = std::make_unique<SharedOut>(options_, *lines.segment, *lines.waiter, self);
  for (int member = 0; member < options_.size(); ++member) {
    if (data_[member]) lines.links[member] = std::make_unique<TcpLink>(member, std::move(data_[member]));
  }
  awaitAllReady();
  return lines;
}

void Forming::startDials() {
  for (int member = 0; member < options_.rank; ++member) {
    dials_.emplace_back(member, Channel::kControl);
    if (!options_.local(member, options_.rank)) dials_.emplace_back(member, Channel::kData);
  }
}

void Forming::connectAll() {
  startDials();
  while (!connected()) {
    for (Dial& dial : dials_) stepDial(dial);
    takeArrivals();
    if (connected()) return;
    wait(static_cast<int>(kRedialTime.count()));
    if (Clock::now() < deadline_) continue;
    for (int member = 0; member < options_.size(); ++member) {
      const bool whole = mesh_.connected(member) && (options_.local(member, options_.rank) || data_[member]);
      if (member != options_.rank && !whole) throwTimeout(member, "connected");
    }
  }
}

bool Forming::connected() const {
  for (int member = 0; member < options_.size(); ++member) {
    if (member == options_.rank) continue;
    if (!mesh_.connected(member) || (!options_.local(member, options_.rank) && !data_[member])) return false;
  }
  return true;
}

void Forming::stepDial(Dial& dial) {
  if (dial.done || Clock::now() < dial.retryAt) return;
  const Endpoint& peer = options_.members[dial.member];
  if (!dial.fd) {
    dial.connected = false;
    dial.welcomeBytes = 0;
    dial.begun = Clock::now();
    dial.fd = beginConnect(peer.host, peer.port);
    if (!dial.fd) return dialFailed(dial, ECONNREFUSED);
  }
  if (!dial.connected) {
    pollfd ready{dial.fd.get(), POLLOUT, 0};
    if (::poll(&ready, 1, 0) <= 0) return requireAnswer(dial);
    const int error = connectError(dial.fd.get());
    if (error != 0) return dialFailed(dial, error);
    dial.connected = true;
    dial.refusedSince = {};
    tuneSocket(dial.fd.get());
    const std::vector<std::byte> hello = encodeHello({.key = mailbox_->key(),
                                                      .membersDigest = membersDigest(options_),
                                                      .fromMember = static_cast<uint32_t>(options_.rank),
                                                      .toMember = static_cast<uint32_t>(dial.member),
                                                      .channel = dial.channel});
    if (!sendWhole(dial.fd.get(), hello.data(), hello.size())) return dialFailed(dial, ECONNRESET);
  }
  readWelcome(dial);
}

void Forming::dialFailed(Dial& dial, int error) {
  dial.fd.reset();
  dial.retryAt = Clock::now() + kRedialTime;
  if (dial.refusedSince == Clock::time_point{}) dial.refusedSince = Clock::now();
  if (Clock::now() - dial.refusedSince < kRefusedTime) return;
  throw FaultError(
      ErrorCode::kPeerDied, options_.members[dial.member].rank,
      concat(rankText(options_, dial.member), " takes no connection (", std::strerror(error), ")"));
}

// A host's kernel answers for its processes, also for one that is stopped. One that does not, however often
// the first packet is sent again, cannot be reached from here: that is known long before the group's time is
// over.
void Forming::requireAnswer(const Dial& dial) const {
  const std::chrono::duration<double, std::milli> silent = Clock::now() - dial.begun;
  if (silent.count() < options_.reachMs) return;
  throw FaultError(
      ErrorCode::kTimeout, options_.members[dial.member].rank,
      concat(rankText(options_, dial.member), " cannot be reached: no answer in ", options_.reachMs, " ms"));
}

void Forming::readWelcome(Dial& dial) {
  std::byte* into = reinterpret_cast<std::byte*>(&dial.welcome) + dial.welcomeBytes;
  const long got = receiveSome(dial.fd.get(), into, sizeof(Welcome) - dial.welcomeBytes);
  if (got < 0) return dialFailed(dial, ECONNRESET);
  dial.welcomeBytes += static_cast<size_t>(got);
  if (dial.welcomeBytes < sizeof(Welcome)) return;
  const std::string peer = rankText(options_, dial.member);
  if (dial.welcome.magic != kHelloMagic) {
    throw FaultError(ErrorCode::kIo, -1, peer + " does not speak the protocol of collectives");
  }
  switch (dial.welcome.status) {
    case WelcomeStatus::kAccepted:
      dial.done = true;
      return adopt(dial.member, dial.channel, std::move(dial.fd));
    case WelcomeStatus::kStale:
      throw FaultError(ErrorCode::kAborted, -1,
                       concat(peer, " is at generation ", dial.welcome.generation, " already"));
    case WelcomeStatus::kMismatch:
      throw FaultError(ErrorCode::kArgument, options_.members[dial.member].rank,
                       peer + " knows the group with other members, pass the same list to every member");
    case WelcomeStatus::kUnknown:
      break;
  }
  dial.fd.reset();
  dial.retryAt = Clock::now() + kRedialTime;
}

void Forming::takeArrivals() {
  for (Mailbox::Arrival& arrival : mailbox_->take()) {
    tuneSocket(arrival.fd.get());
    adopt(static_cast<int>(arrival.fromMember), arrival.channel, std::move(arrival.fd));
  }
}

void Forming::adopt(int member, Channel channel, UniqueFd fd) {
  if (channel == Channel::kControl) {
    mesh_.connect(member, std::move(fd));
  } else {
    data_[member] = std::move(fd);
  }
}

void Forming::wait(int timeoutMs) {
  std::vector<pollfd> fds;
  mesh_.appendPollFds(fds);
  if (mailbox_) fds.push_back({mailbox_->wakeFd(), POLLIN, 0});
  for (const Dial& dial : dials_) {
    if (dial.fd) fds.push_back({dial.fd.get(), static_cast<short>(dial.connected ? POLLIN : POLLOUT), 0});
  }
  ::poll(fds.data(), fds.size(), std::min(timeoutMs, kSliceMs));
  mesh_.pump();
}

std::unique_ptr<Segment> Forming::shareMemory() {
  if (local_.size() < 2) return nullptr;
  const int creator = local_.front();
  if (creator == options_.rank) return createMemory();
  waitUntil("created shared memory", {creator},
            [&](int member) { return mesh_.peer(member).segmentPlace != 0; });
  const Mesh::Peer& peer = mesh_.peer(creator);
  const Segment::Place place{static_cast<uint32_t>(peer.segmentPlace >> 32),
                             static_cast<uint32_t>(peer.segmentPlace)};
  try {
    const int count = static_cast<int>(local_.size());
    auto segment = std::make_unique<Segment>(Segment::open(place, count, peer.segmentNonce));
    mesh_.send(creator, ControlFrame{.type = FrameType::kSegmentMapped, .nonce = segment->nonce()});
    return segment;
  } catch (const FaultError&) {
    wait(kSliceMs);  // if its creator has died, that is the news
    throw;
  }
}

std::unique_ptr<Segment> Forming::createMemory() {
  UniqueFd fd;
  auto segment = std::make_unique<Segment>(Segment::create(static_cast<int>(local_.size()), &fd));
  const ControlFrame frame{.type = FrameType::kSegmentReady,
                           .value = static_cast<uint64_t>(::getpid()) << 32 | static_cast<uint32_t>(fd.get()),
                           .nonce = segment->nonce()};
  const std::vector<int> others(local_.begin() + 1, local_.end());
  for (int member : others) mesh_.send(member, frame);
  waitUntil("mapped shared memory", others,
            [&](int member) { return mesh_.peer(member).segmentNonce == segment->nonce(); });
  return segment;
}

void Forming::awaitAllReady() {
  mesh_.sendAll(ControlFrame{.type = FrameType::kReady});
  std::vector<int> others;
  for (int member = 0; member < options_.size(); ++member) {
    if (member != options_.rank) others.push_back(member);
  }
  waitUntil("become ready", others, [&](int member) { return mesh_.peer(member).ready; });
}

template <class Ready>
void Forming::waitUntil(const char* what, const std::vector<int>& members, const Ready& ready) {
  for (int member : members) {
    while (!ready(member)) {
      wait(kSliceMs);
      if (Clock::now() >= deadline_ && !ready(member)) throwTimeout(member, what);
    }
  }
}

void Forming::throwTimeout(int member, const char* what) const {
  throw FaultError(
      ErrorCode::kTimeout, options_.members[member].rank,
      concat(rankText(options_, member), " has not ", what, " after ", options_.timeoutMs, " ms"));
}

}  // namespace goku::collectives
