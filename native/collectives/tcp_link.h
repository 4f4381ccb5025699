// A data connection to one member that shares no memory with us.
#pragma once

#include "native/collectives/link.h"
#include "native/collectives/wire.h"
#include "native/unique_fd.h"

namespace goku::collectives {

class TcpLink : public Link {
 public:
  TcpLink(int member, UniqueFd data);
  void begin(const Announcement& mine) override;
  bool flush() override;
  const std::optional<Announcement>& announced() override;
  size_t send(const std::byte* from, size_t bytes) override;
  // Never around the caches: the kernel writes the bytes.
  size_t receive(std::byte* into, size_t bytes, bool /*around*/) override { return read(into, bytes); }
  std::span<const std::byte> peek(size_t bytes) override;
  void consume(size_t bytes) override;
  size_t receiveShared(std::byte* into, size_t bytes, bool around) override {
    return receive(into, bytes, around);
  }
  void appendPollFds(std::vector<pollfd>& fds) const override;
  void round() override { wanted_ = 0; }

 private:
  size_t read(std::byte* into, size_t bytes);

  int member_;
  UniqueFd data_;
  DataHeader header_;
  size_t headerSent_ = sizeof(DataHeader);
  DataHeader theirs_;
  size_t theirsRead_ = 0;
  std::optional<Announcement> announced_;
  std::vector<std::byte> staged_;  // [stagedBegin_, stagedEnd_) has arrived and is not consumed
  size_t stagedBegin_ = 0;
  size_t stagedEnd_ = 0;
  short wanted_ = 0;  // poll events
};

}  // namespace goku::collectives
