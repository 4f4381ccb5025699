#include "native/collectives/exchange.h"

#include "native/collectives/fault.h"

namespace goku::collectives {

void Exchange::run(const Terms& terms, std::vector<std::unique_ptr<Transfer>>& transfers) try {
  terms_ = &terms;
  entered_.assign(options_.members.size(), false);
  entered_[options_.rank] = true;
  lines_.waiter->begin();
  enter(terms);
  move(transfers);
} catch (const LinkBroken& broken) {
  mesh_.explainBroken(broken);
}

void Exchange::move(std::vector<std::unique_ptr<Transfer>>& transfers) {
  for (bool stuck = false;;) {
    const uint32_t seen = lines_.waiter->seen();
    bool done = true;
    if (stepAll(transfers, &done)) {
      stuck = false;
      lines_.waiter->glance();
      continue;
    }
    if (done) return;
    // A neighbour's goodbye may be read before its last bytes are: only a second round without them is final.
    if (stuck) checkLeft();
    stuck = true;
    data_.clear();
    for (const auto& link : lines_.links) {
      if (link) link->appendPollFds(data_);
    }
    if (!lines_.waiter->sleep(seen, data_)) throwTimeout(transfers);
  }
}

void Exchange::enter(const Terms& terms) {
  const auto announcement = [&](int member) {
    return Announcement{terms.sequence, terms.signature, terms.bytesTo[member], terms.bytesFrom[member]};
  };
  for (int member = 0; member < options_.size(); ++member) {
    if (lines_.links[member]) lines_.links[member]->begin(announcement(member));
  }
  if (!lines_.segment) return;
  std::vector<Announcement> neighbours;
  for (int member : lines_.localMembers) neighbours.push_back(announcement(member));
  lines_.segment->enter(lines_.self, terms.sequence, neighbours);
  lines_.waiter->ringAll();
}

bool Exchange::stepAll(std::vector<std::unique_ptr<Transfer>>& transfers, bool* done) {
  bool moved = false;
  for (const auto& link : lines_.links) {
    if (link) link->round();
  }
  for (const auto& transfer : transfers) {
    if (transfer->done()) continue;
    moved |= transfer->step();
    *done &= transfer->done();
  }
  if (lines_.sharedOut) *done &= lines_.sharedOut->borrower() < 0;
  for (int member = 0; member < options_.size(); ++member) {
    if (!lines_.links[member]) continue;
    *done &= lines_.links[member]->flush();
    const bool before = entered_[member];
    *done &= entered(member);
    moved |= entered_[member] != before;  // its bytes may lie behind the announcement
  }
  return moved;
}

bool Exchange::entered(int member) {
  if (entered_[member]) return true;
  const std::optional<Announcement>& theirs = lines_.links[member]->announced();
  if (!theirs) return false;
  const uint64_t bytesTo = terms_->bytesTo[member];
  const uint64_t bytesFrom = terms_->bytesFrom[member];
  if (theirs->signature != terms_->signature || theirs->bytes != bytesFrom || theirs->wanted != bytesTo) {
    const int rank = options_.members[member].rank;
    throw FaultError(ErrorCode::kArgument, rank,
                     concat("rank ", rank, " runs kind ", theirs->signature & 0xff, ", sends ", theirs->bytes,
                            " bytes and expects ", theirs->wanted, ", want kind ", terms_->signature & 0xff,
                            ", ", bytesFrom, " and ", bytesTo,
                            "; call the same collectives with the same types and counts on every member"));
  }
  entered_[member] = true;
  return true;
}

void Exchange::checkLeft() const {
  for (int member : lines_.localMembers) {
    if (member == options_.rank || entered_[member] || !mesh_.peer(member).left) continue;
    const int rank = options_.members[member].rank;
    throw FaultError(ErrorCode::kPeerDied, rank, concat("rank ", rank, " has closed the group"));
  }
}

void Exchange::throwTimeout(const std::vector<std::unique_ptr<Transfer>>& transfers) {
  int missing = -1;
  for (int member = 0; member < options_.size() && missing < 0; ++member) {
    if (!entered_[member]) missing = member;
  }
  for (const auto& transfer : transfers) {
    if (missing < 0 && !transfer->done()) missing = transfer->waitingFor();
  }
  const char* what = missing >= 0 && !entered_[missing] ? " has not entered it" : " sends nothing more";
  if (missing < 0) {
    what = " does not take what is sent to it";
    if (lines_.sharedOut && lines_.sharedOut->borrower() >= 0)
      missing = lines_.localMembers[lines_.sharedOut->borrower()];
    for (int member = 0; member < options_.size() && missing < 0; ++member) {
      if (lines_.links[member] && !lines_.links[member]->flush()) missing = member;
    }
  }
  const int rank = missing < 0 ? -1 : options_.members[missing].rank;
  throw FaultError(ErrorCode::kTimeout, rank,
                   concat("rank ", rank, what, " after ", options_.timeoutMs, " ms"));
}

}  // namespace goku::collectives
