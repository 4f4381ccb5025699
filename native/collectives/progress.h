// The collective part of the progress page: what this rank has entered and left, for whoever asks why it
// stands still.
//
// Numbers run over all groups of the process, from 1 in each generation, in the order in which collectives
// begin on their groups' threads. `collectiveCompleted` is the last one before which all are completed; kind,
// group and bytes describe the oldest one that is not, so that a blocked collective is not hidden by a later
// one of another group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "native/collectives/operation.h"

namespace goku::collectives {

class Progress {
 public:
  /// Books the collective in the page of its group; returns its number.
  uint64_t enter(std::byte* page, uint64_t generation, Kind kind, const std::string& group, uint64_t bytes);
  void complete(std::byte* page, uint64_t generation, uint64_t number);

 private:
  struct Entry {
    Kind kind;
    std::string group;
    uint64_t bytes;
  };
  void describe(std::byte* page, const Entry& entry) const;

  std::mutex mutex_;
  uint64_t generation_ = 0;
  uint64_t entered_ = 0;
  std::map<uint64_t, Entry> open_;  // entered, not completed
};

}  // namespace goku::collectives
