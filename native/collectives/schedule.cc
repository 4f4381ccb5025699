#include "native/collectives/schedule.h"

#include <algorithm>
#include <numeric>

#include "native/collectives/transfer.h"

namespace goku::collectives {
namespace {

// Up to this size every member sends its whole buffer to all and folds by itself: one hop instead of two.
constexpr size_t kReduceSmallBytes = 16 << 10;
// Up to this size a broadcast goes from the root to every node at once instead of down a chain.
constexpr size_t kBroadcastSmallBytes = 64 << 10;
// Blocks of an all-reduce begin at cache lines of its buffer.
constexpr size_t kBlockAlign = 64;
// In a signature: the payload goes from device to device.
constexpr uint32_t kOnDevice = 1 << 15;

class Scheduler {
 public:
  Scheduler(const GroupOptions& options, Exchange& exchange, const Operation& operation, Schedule& schedule)
      : options_(options),
        exchange_(exchange),
        op_(operation),
        schedule_(schedule),
        to_(schedule.terms.bytesTo),
        from_(schedule.terms.bytesFrom),
        size_(options.size()),
        self_(options.rank),
        unit_(dtypeBytes(operation.dtype)) {}

  void allGather() {
    const std::vector<size_t> offsets = offsetsOf(op_.outCounts);
    const size_t mine = op_.outCounts[self_] * unit_;
    forOthers([&](int member) {
      to_[member] = mine;
      from_[member] = op_.outCounts[member] * unit_;
    });
    sendToAll(op_.input.data, mine);
    forOthers([&](int member) { receive(member, op_.out.data + offsets[member], from_[member], true); });
    add<CopyHere>(op_.out.data + offsets[self_], op_.input.data, mine);
  }

  void reduceScatter() {
    const std::vector<size_t> offsets = offsetsOf(op_.outCounts);
    const size_t mine = op_.outCounts[self_] * unit_;
    forOthers([&](int member) {
      to_[member] = op_.contributes[self_] ? op_.outCounts[member] * unit_ : 0;
      from_[member] = op_.contributes[member] ? mine : 0;
      if (to_[member] > 0) add<SendTo>(exchange_, member, op_.input.data + offsets[member], to_[member]);
    });
    std::vector<FoldFrom::Part> parts{{-1, op_.out.data}};
    for (int member = 0; member < size_; ++member) {
      if (!op_.contributes[member]) continue;
      parts.push_back(member == self_ ? FoldFrom::Part{-1, op_.input.data + offsets[self_]}
                                      : FoldFrom::Part{member, nullptr});
    }
    if (parts.size() > 1)
      add<FoldFrom>(exchange_, op_.dtype, Reduction::kSum, op_.out.data, std::move(parts), mine);
  }

  void allReduce() {
    const size_t bytes = op_.out.bytes();
    if (size_ > 1 && bytes > 0) bytes <= kReduceSmallBytes ? allReduceSmall(bytes) : allReduceBlocks(bytes);
  }

  void allToAll() {
    const std::vector<size_t> outOffsets = offsetsOf(op_.outCounts);
    const std::vector<size_t> inOffsets = offsetsOf(op_.inCounts);
    forOthers([&](int member) {
      to_[member] = op_.inCounts[member] * unit_;
      from_[member] = op_.outCounts[member] * unit_;
      add<SendTo>(exchange_, member, op_.input.data + inOffsets[member], to_[member]);
    });
    forOthers([&](int member) { receive(member, op_.out.data + outOffsets[member], from_[member], false); });
    add<CopyHere>(op_.out.data + outOffsets[self_], op_.input.data + inOffsets[self_],
                  op_.outCounts[self_] * unit_);
  }

  /// One member of each node gets the bytes from outside and passes them on to its neighbours; large ones
  /// travel down a chain of nodes, so that every line carries them once, and are forwarded while they arrive.
  void broadcast() {
    const size_t bytes = op_.out.bytes();
    std::vector<int> upstream(size_, -1);
    std::vector<int> heads;  // of nodes, in member order from the root on
    for (int i = 0; i < size_; ++i) {
      const int member = (op_.root + i) % size_;
      const auto head =
          std::find_if(heads.begin(), heads.end(), [&](int h) { return options_.local(h, member); });
      if (head != heads.end()) {
        upstream[member] = *head;
      } else {
        if (!heads.empty()) upstream[member] = bytes <= kBroadcastSmallBytes ? op_.root : heads.back();
        heads.push_back(member);
      }
    }
    const ReceiveFrom* source = nullptr;
    if (upstream[self_] >= 0) {
      from_[upstream[self_]] = bytes;
      source = receive(upstream[self_], op_.out.data, bytes, true);
    }
    bool neighbours = false;
    for (int member = 0; member < size_; ++member) {
      if (upstream[member] != self_) continue;
      to_[member] = bytes;
      if (options_.local(self_, member)) {
        neighbours = true;
      } else {
        add<SendTo>(exchange_, member, op_.out.data, bytes, source);
      }
    }
    if (neighbours) add<SendShared>(exchange_, op_.out.data, bytes, source);
  }

 private:
  void allReduceSmall(size_t bytes) {
    schedule_.scratch.resize(bytes * size_);
    std::byte* scratch = schedule_.scratch.data();
    forOthers([&](int member) { to_[member] = from_[member] = bytes; });
    sendToAll(op_.out.data, bytes);
    forOthers([&](int member) { receive(member, scratch + member * bytes, bytes, true); });
    schedule_.finish = [&op = op_, self = self_, size = size_, scratch, bytes] {
      std::vector<const std::byte*> inputs(size);
      for (int member = 0; member < size; ++member) {
        inputs[member] = member == self ? op.out.data : scratch + member * bytes;
      }
      fold(op.dtype, op.reduction, op.out.data, inputs[0], std::span(inputs).subspan(1), op.out.count);
    };
  }

  /// Member m folds block m of everyone's buffer, then sends it to all: what is folded goes out at once.
  void allReduceBlocks(size_t bytes) {
    const size_t block = (bytes / size_ / kBlockAlign + 1) * kBlockAlign;
    const auto begin = [&](int member) { return std::min(bytes, member * block); };
    const auto length = [&](int member) { return begin(member + 1) - begin(member); };
    std::vector<const Transfer*> sends(size_);
    forOthers([&](int member) {
      to_[member] = from_[member] = length(member) + length(self_);
      sends[member] = add<SendTo>(exchange_, member, op_.out.data + begin(member), length(member));
    });
    std::vector<FoldFrom::Part> parts;
    std::byte* mine = op_.out.data + begin(self_);
    for (int member = 0; member < size_; ++member) {
      parts.push_back(member == self_ ? FoldFrom::Part{-1, mine} : FoldFrom::Part{member, nullptr});
    }
    const FoldFrom* folded =
        add<FoldFrom>(exchange_, op_.dtype, op_.reduction, mine, std::move(parts), length(self_));
    if (hasNeighbours()) add<SendShared>(exchange_, mine, length(self_), folded);
    forOthers([&](int member) {
      // A block comes back only after its sender had our part of it, so no unsent byte is overwritten. On a
      // connection the folded block stands behind the sender's part of ours.
      const bool local = options_.local(self_, member);
      if (!local) add<SendTo>(exchange_, member, mine, length(self_), folded, sends[member]);
      receive(member, op_.out.data + begin(member), length(member), true, local ? nullptr : folded);
    });
  }

  template <class T, class... Arguments>
  T* add(Arguments&&... arguments) {
    auto transfer = std::make_unique<T>(std::forward<Arguments>(arguments)...);
    T* raw = transfer.get();
    schedule_.transfers.push_back(std::move(transfer));
    return raw;
  }

  ReceiveFrom* receive(int member, std::byte* into, size_t bytes, bool shared,
                       const Transfer* after = nullptr) {
    return add<ReceiveFrom>(exchange_, member, into, bytes, shared, after);
  }

  void sendToAll(const std::byte* from, size_t bytes) {
    if (hasNeighbours()) add<SendShared>(exchange_, from, bytes);
    forOthers([&](int member) {
      if (!options_.local(self_, member)) add<SendTo>(exchange_, member, from, bytes);
    });
  }

  bool hasNeighbours() const { return exchange_.lines().sharedOut != nullptr; }

  /// Every other member, the next one first: members do not all turn to the same one.
  template <class Body>
  void forOthers(const Body& body) const {
    for (int i = 1; i < size_; ++i) body((self_ + i) % size_);
  }

  std::vector<size_t> offsetsOf(const std::vector<int64_t>& counts) const {
    std::vector<size_t> offsets(counts.size());
    std::exclusive_scan(counts.begin(), counts.end(), offsets.begin(), size_t{0});
    for (size_t& offset : offsets) offset *= unit_;
    return offsets;
  }

  const GroupOptions& options_;
  Exchange& exchange_;
  const Operation& op_;
  Schedule& schedule_;
  std::vector<uint64_t>& to_;
  std::vector<uint64_t>& from_;
  int size_;
  int self_;
  size_t unit_;
};

}  // namespace

uint64_t Schedule::bytes() const {
  return std::accumulate(terms.bytesTo.begin(), terms.bytesTo.end(), uint64_t{0}) +
         std::accumulate(terms.bytesFrom.begin(), terms.bytesFrom.end(), uint64_t{0});
}

void Schedule::announceOnly() {
  terms.signature |= kOnDevice;
  transfers.clear();
  finish = nullptr;
}

Schedule makeSchedule(const GroupOptions& options, Exchange& exchange, const Operation& operation,
                      uint64_t sequence) {
  Schedule schedule;
  schedule.terms.sequence = sequence;
  schedule.terms.signature =
      static_cast<uint32_t>(operation.kind) | static_cast<uint32_t>(operation.dtype) << 8 |
      static_cast<uint32_t>(operation.reduction) << 12 | static_cast<uint32_t>(operation.root) << 16;
  schedule.terms.bytesTo.resize(options.members.size());
  schedule.terms.bytesFrom.resize(options.members.size());
  Scheduler scheduler(options, exchange, operation, schedule);
  switch (operation.kind) {
    case Kind::kAllGather:
      scheduler.allGather();
      break;
    case Kind::kReduceScatter:
      scheduler.reduceScatter();
      break;
    case Kind::kAllReduce:
      scheduler.allReduce();
      break;
    case Kind::kAllToAll:
      scheduler.allToAll();
      break;
    case Kind::kBroadcast:
      scheduler.broadcast();
      break;
    case Kind::kBarrier:
    case Kind::kConnect:
      break;
  }
  return schedule;
}

}  // namespace goku::collectives
