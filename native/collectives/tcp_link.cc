#include "native/collectives/tcp_link.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace goku::collectives {
namespace {

// One call sends at most this much, so that all peers progress together; calls of 1 MiB took longer.
constexpr size_t kSendPiece = 4 << 20;
// Bytes that are folded land here first: the buffer stays in the cache. All others go straight to where they
// are wanted.
constexpr size_t kStaged = 256 << 10;
constexpr size_t kElementBytesMax = 8;

}  // namespace

TcpLink::TcpLink(int member, UniqueFd data) : member_(member), data_(std::move(data)) {}

void TcpLink::begin(const Announcement& mine) {
  header_ = DataHeader{
      .signature = mine.signature, .sequence = mine.sequence, .bytes = mine.bytes, .wanted = mine.wanted};
  headerSent_ = 0;
  theirsRead_ = 0;
  announced_.reset();
}

bool TcpLink::flush() {
  if (headerSent_ < sizeof(header_)) send(nullptr, 0);
  return headerSent_ == sizeof(header_);
}

const std::optional<Announcement>& TcpLink::announced() {
  if (announced_ || theirsRead_ == sizeof(theirs_)) return announced_;
  theirsRead_ += read(reinterpret_cast<std::byte*>(&theirs_) + theirsRead_, sizeof(theirs_) - theirsRead_);
  if (theirsRead_ < sizeof(theirs_)) return announced_;
  if (theirs_.magic != kDataMagic || theirs_.sequence != header_.sequence) throw LinkBroken{member_};
  announced_ = Announcement{theirs_.sequence, theirs_.signature, theirs_.bytes, theirs_.wanted};
  return announced_;
}

size_t TcpLink::send(const std::byte* from, size_t bytes) {
  const size_t head = sizeof(header_) - headerSent_;
  const size_t count = std::min(bytes, kSendPiece);
  if (head + count == 0) return 0;
  iovec parts[2] = {{reinterpret_cast<std::byte*>(&header_) + headerSent_, head},
                    {const_cast<std::byte*>(from), count}};
  msghdr message{};
  message.msg_iov = head > 0 ? parts : parts + 1;
  message.msg_iovlen = (head > 0 ? 1 : 0) + (count > 0 ? 1 : 0);
  const ssize_t sent = ::sendmsg(data_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0) {
    if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) throw LinkBroken{member_};
    wanted_ |= POLLOUT;
    return 0;
  }
  const size_t headed = std::min(head, static_cast<size_t>(sent));
  headerSent_ += headed;
  if (static_cast<size_t>(sent) < head + count) wanted_ |= POLLOUT;
  return static_cast<size_t>(sent) - headed;
}

size_t TcpLink::read(std::byte* into, size_t bytes) {
  const ssize_t got = ::recv(data_.get(), into, bytes, MSG_DONTWAIT);
  if (got > 0) return static_cast<size_t>(got);
  if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) throw LinkBroken{member_};
  wanted_ |= POLLIN;
  return 0;
}

std::span<const std::byte> TcpLink::peek(size_t bytes) {
  if (staged_.empty()) staged_.resize(kStaged);
  if (stagedBegin_ == stagedEnd_) stagedBegin_ = stagedEnd_ = 0;
  const size_t have = stagedEnd_ - stagedBegin_;
  if (have < kElementBytesMax && stagedEnd_ == staged_.size()) {
    // A part of an element is left over at the end: at the front it is aligned again.
    std::memmove(staged_.data(), staged_.data() + stagedBegin_, have);
    stagedBegin_ = 0;
    stagedEnd_ = have;
  }
  // Never beyond what the caller wants now: bytes behind it belong to somebody else's receive().
  const size_t room = std::min(bytes - std::min(bytes, have), staged_.size() - stagedEnd_);
  if (room > 0) stagedEnd_ += read(staged_.data() + stagedEnd_, room);
  return {staged_.data() + stagedBegin_, std::min(bytes, stagedEnd_ - stagedBegin_)};
}

void TcpLink::consume(size_t bytes) { stagedBegin_ += bytes; }

void TcpLink::appendPollFds(std::vector<pollfd>& fds) const {
  if (wanted_ != 0) fds.push_back({data_.get(), wanted_, 0});
}

}  // namespace goku::collectives
