// The transfers that collectives are made of. Each refers to buffers of its caller and to lines of the group.
#pragma once

#include "native/collectives/exchange.h"
#include "native/collectives/fold.h"

namespace goku::collectives {

/// Bytes from here to a member. With `source`, only what that transfer has produced so far is sent: a chain
/// of transfers over one buffer. Transfers to one member go out in the order they are listed.
class SendTo : public Transfer {
 public:
  SendTo(Exchange& exchange, int member, const std::byte* from, size_t bytes,
         const class Producer* source = nullptr, const Transfer* after = nullptr);
  bool step() override;
  bool done() const override { return sent_ == bytes_; }
  int waitingFor() const override { return member_; }

 private:
  Exchange& exchange_;
  int member_;
  const std::byte* from_;
  size_t bytes_;
  const class Producer* source_;
  const Transfer* after_;
  size_t sent_ = 0;
};

/// A transfer whose result others may forward while it runs.
class Producer : public Transfer {
 public:
  /// Bytes from the beginning that are final.
  size_t ready() const { return ready_; }

 protected:
  size_t ready_ = 0;
};

/// Bytes from here to all neighbours on the node at once.
class SendShared : public Transfer {
 public:
  SendShared(Exchange& exchange, const std::byte* from, size_t bytes, const Producer* source = nullptr)
      : exchange_(exchange), from_(from), bytes_(bytes), source_(source) {}
  bool step() override;
  bool done() const override { return sent_ == bytes_; }

 private:
  Exchange& exchange_;
  const std::byte* from_;
  size_t bytes_;
  const Producer* source_;
  size_t sent_ = 0;
};

/// Bytes from a member to here; `shared`: from its shared ring where it has one. `after` must be done first:
/// its bytes stand before these on the connection.
class ReceiveFrom : public Producer {
 public:
  ReceiveFrom(Exchange& exchange, int member, std::byte* into, size_t bytes, bool shared,
              const Transfer* after = nullptr);
  bool step() override;
  bool done() const override { return ready_ == bytes_; }
  int waitingFor() const override { return member_; }

 private:
  Exchange& exchange_;
  int member_;
  std::byte* into_;
  size_t bytes_;
  bool shared_;
  const Transfer* after_;
};

/// out = parts folded in order, where each part is a buffer here or what a member sends. `out` may be one of
/// the buffers. Works on whatever stretch has arrived from every member.
class FoldFrom : public Producer {
 public:
  struct Part {
    int member;             // whose bytes are received, or -1
    const std::byte* here;  // the buffer when member is -1
  };
  FoldFrom(Exchange& exchange, DType dtype, Reduction op, std::byte* out, std::vector<Part> parts,
           size_t bytes);
  bool step() override;
  bool done() const override { return ready_ == bytes_; }
  int waitingFor() const override;

 private:
  Exchange& exchange_;
  DType dtype_;
  Reduction op_;
  std::byte* out_;
  std::vector<Part> parts_;
  size_t bytes_;
  std::vector<const std::byte*> inputs_;
};

/// A copy within this member. Listed last, it runs in pieces while peers keep it waiting.
class CopyHere : public Transfer {
 public:
  CopyHere(std::byte* to, const std::byte* from, size_t bytes)
      : to_(to), from_(from), bytes_(to == from ? 0 : bytes) {}
  bool step() override;
  bool done() const override { return copied_ == bytes_; }

 private:
  std::byte* to_;
  const std::byte* from_;
  size_t bytes_;
  size_t copied_ = 0;
};

}  // namespace goku::collectives
