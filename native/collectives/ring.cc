#include "native/collectives/ring.h"

#include <algorithm>
#include <cstring>

#include "native/collectives/peer_memory.h"

namespace goku::collectives {

std::span<std::byte> RingWriter::reserve() {
  if (written_ - takenByAll_ >= slots_.count) {
    uint64_t least = written_;
    for (int r = 0; r < readers_; ++r)
      least = std::min(least, taken_[r].value.load(std::memory_order_acquire));
    takenByAll_ = least;
    if (written_ - least >= slots_.count) return {};
  }
  return {slots_.at(written_), slots_.bytes};
}

void RingWriter::publish(uint32_t bytes) {
  line_->lengths[written_ % slots_.count] = bytes;
  line_->written.store(++written_, std::memory_order_release);
}

void RingWriter::lend(const Loan& loan) {
  std::memcpy(slots_.at(written_), &loan, sizeof(loan));
  publish(kLent);
  lent_ = written_;
}

int RingWriter::borrower() const {
  for (int r = 0; r < readers_ && takenByAll_ < lent_; ++r) {
    if (taken_[r].value.load(std::memory_order_acquire) < lent_) return r;
  }
  return -1;
}

std::span<const std::byte> RingReader::front() {
  if (line_->written.load(std::memory_order_acquire) == takenEntries_) return {};
  if (lent()) {
    const Loan loan = this->loan();
    return writer_.view(loan.place, loan.bytes).subspan(offset_);
  }
  return {slots_.at(takenEntries_) + offset_, length() - offset_};
}

bool RingReader::consume(size_t bytes) {
  offset_ += bytes;
  if (offset_ < length()) return false;
  offset_ = 0;
  taken_->value.store(++takenEntries_, std::memory_order_release);
  return true;
}

size_t RingReader::length() const {
  return lent() ? loan().bytes : std::min(line_->lengths[takenEntries_ % slots_.count], slots_.bytes);
}

Loan RingReader::loan() const {
  Loan loan;
  std::memcpy(&loan, slots_.at(takenEntries_), sizeof(loan));
  return loan;
}

}  // namespace goku::collectives
