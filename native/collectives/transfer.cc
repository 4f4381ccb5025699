#include "native/collectives/transfer.h"

#include <algorithm>
#include <cstring>

#include "native/copy_around.h"

namespace goku::collectives {
namespace {

// A payload from this size on does not stay in the caches until it is used: it is copied around them.
constexpr size_t kAroundBytes = 1 << 20;
// One step of a fold or of a local copy: short enough to serve the peers in between.
constexpr size_t kStepBytes = 256 << 10;

void copyPayload(std::byte* to, const std::byte* from, size_t bytes, bool around) {
  if (around) return copyAround(to, from, bytes);
  std::memcpy(to, from, bytes);
}

}  // namespace

SendTo::SendTo(Exchange& exchange, int member, const std::byte* from, size_t bytes, const Producer* source,
               const Transfer* after)
    : exchange_(exchange), member_(member), from_(from), bytes_(bytes), source_(source), after_(after) {}

bool SendTo::step() {
  if (after_ != nullptr && !after_->done()) return false;
  const size_t ready = source_ != nullptr ? source_->ready() : bytes_;
  if (ready == sent_) return false;
  const size_t count = exchange_.link(member_).send(from_ + sent_, ready - sent_);
  sent_ += count;
  return count > 0;
}

bool SendShared::step() {
  const size_t ready = source_ != nullptr ? source_->ready() : bytes_;
  if (ready == sent_) return false;
  const size_t count = exchange_.lines().sharedOut->send(from_ + sent_, ready - sent_);
  sent_ += count;
  return count > 0;
}

ReceiveFrom::ReceiveFrom(Exchange& exchange, int member, std::byte* into, size_t bytes, bool shared,
                         const Transfer* after)
    : exchange_(exchange), member_(member), into_(into), bytes_(bytes), shared_(shared), after_(after) {}

bool ReceiveFrom::step() {
  if ((after_ != nullptr && !after_->done()) || !exchange_.entered(member_)) return false;
  Link& link = exchange_.link(member_);
  std::byte* into = into_ + ready_;
  const size_t left = bytes_ - ready_;
  const bool around = bytes_ >= kAroundBytes;
  const size_t count = shared_ ? link.receiveShared(into, left, around) : link.receive(into, left, around);
  ready_ += count;
  return count > 0;
}

FoldFrom::FoldFrom(Exchange& exchange, DType dtype, Reduction op, std::byte* out, std::vector<Part> parts,
                   size_t bytes)
    : exchange_(exchange),
      dtype_(dtype),
      op_(op),
      out_(out),
      parts_(std::move(parts)),
      bytes_(bytes),
      inputs_(parts_.size()) {}

bool FoldFrom::step() {
  const size_t unit = dtypeBytes(dtype_);
  size_t count = std::min(bytes_ - ready_, kStepBytes);
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i].member < 0) {
      inputs_[i] = parts_[i].here + ready_;
      continue;
    }
    if (!exchange_.entered(parts_[i].member)) return false;
    const std::span<const std::byte> arrived = exchange_.link(parts_[i].member).peek(bytes_ - ready_);
    inputs_[i] = arrived.data();
    count = std::min(count, arrived.size() / unit * unit);
  }
  if (count == 0) return false;
  fold(dtype_, op_, out_ + ready_, inputs_[0], std::span(inputs_).subspan(1), count / unit);
  for (const Part& part : parts_) {
    if (part.member >= 0) exchange_.link(part.member).consume(count);
  }
  ready_ += count;
  return true;
}

int FoldFrom::waitingFor() const {
  for (const Part& part : parts_) {
    if (part.member >= 0 && exchange_.link(part.member).peek(bytes_ - ready_).empty()) return part.member;
  }
  return -1;
}

bool CopyHere::step() {
  const size_t count = std::min(bytes_ - copied_, kStepBytes);
  copyPayload(to_ + copied_, from_ + copied_, count, bytes_ >= kAroundBytes);
  copied_ += count;
  return count > 0;
}

}  // namespace goku::collectives
