// Collectives between devices by NCCL (docs/decisions/034): NCCL moves bytes, our own kernel adds, in member
// order, so that every sum has the bits that the host's lines give it.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "native/collectives/device_lines.h"
#include "native/cuda/fold.h"
#include "native/cuda/nccl_comm.h"

namespace goku::collectives {
namespace {

using nccl::Communicator;

// A smaller all-reduce is a vote, whose result the host reads: one hop of the host's lines, and no
// communicator waits for a kernel.
constexpr size_t kHostReduceBytesMax = 16 << 10;
// What members send to be added lies here; longer operations go piece by piece.
#if defined(GOKU_EMULATED_DEVICE)
constexpr size_t kScratchBytes = size_t{1} << 20;  // so that tests need not add hundreds of megabytes
#else
constexpr size_t kScratchBytes = size_t{64} << 20;
#endif
constexpr size_t kPieceAlign = 64;
// A member that ended is seen on the host's lines about as soon as by NCCL, which does not say who it was.
constexpr std::chrono::seconds kExplainTime{1};

class NcclLines final : public DeviceLines {
 public:
  NcclLines(const GroupOptions& options, Waiter& waiter, std::unique_ptr<nccl::Api> api,
            std::unique_ptr<Communicator> comm)
      : options_(options), waiter_(waiter), api_(std::move(api)), comm_(std::move(comm)) {}
  ~NcclLines() override { abort(); }
  NcclLines(const NcclLines&) = delete;
  NcclLines& operator=(const NcclLines&) = delete;

  bool carries(const Operation& op) const override {
    if (op.kind == Kind::kBarrier) return false;
    return op.kind != Kind::kAllReduce || op.out.bytes() > kHostReduceBytesMax;
  }

  std::shared_ptr<void> mark() const override { return std::make_shared<Event>(computeStream()); }

  void arrive(const Operation& op) override try {
    const auto& before = *static_cast<const Event*>(op.before.get());
    for (nccl::Pause pause; !before.passed();) waiter_.rest(pause.next());
  } catch (const NativeError& error) {
    throw FaultError(error.code(), -1, error.what());
  }

  void run(const Operation& op) override try {
    switch (op.kind) {
      case Kind::kAllGather:
        return allGather(op);
      case Kind::kReduceScatter:
        return reduceScatter(op);
      case Kind::kAllReduce:
        return allReduce(op);
      case Kind::kAllToAll:
        return allToAll(op);
      case Kind::kBroadcast:
        if (op.out.count > 0)
          comm_->together([&] { comm_->broadcast(op.out.data, op.out.bytes(), op.root); });
        return;
      case Kind::kBarrier:
      case Kind::kConnect:
        return;
    }
  } catch (const nccl::Failure& failure) {
    explain(failure);
  } catch (const NativeError& error) {
    throw FaultError(error.code(), -1, error.what());
  }

  void abort() noexcept override {
    comm_.reset();
    // Our own kernels and copies end by themselves.
    cudaStreamSynchronize(computeStream());
    freeScratch();
  }

  void close() noexcept override {
    if (comm_) comm_->close();
    abort();
  }

 private:
  int size() const { return options_.size(); }

  void allGather(const Operation& op) {
    const std::vector<size_t> sizes = bytesOf(op.outCounts, op.dtype), at = startsOf(sizes);
    std::byte* mine = op.out.data + at[self()];
    if (std::all_of(sizes.begin(), sizes.end(), [&](size_t bytes) { return bytes == sizes[0]; })) {
      if (sizes[0] > 0) comm_->together([&] { comm_->allGather(op.input.data, op.out.data, sizes[0]); });
      return;
    }
    comm_->together([&] {
      for (const int member : others()) {
        comm_->send(op.input.data, sizes[self()], member);
        comm_->receive(op.out.data + at[member], sizes[member], member);
      }
    });
    copy(mine, op.input.data, sizes[self()]);
  }

  void allToAll(const Operation& op) {
    const std::vector<size_t> in = bytesOf(op.inCounts, op.dtype), out = bytesOf(op.outCounts, op.dtype);
    const std::vector<size_t> inAt = startsOf(in), outAt = startsOf(out);
    comm_->together([&] {
      for (const int member : others()) {
        comm_->send(op.input.data + inAt[member], in[member], member);
        comm_->receive(op.out.data + outAt[member], out[member], member);
      }
    });
    copy(op.out.data + outAt[self()], op.input.data + inAt[self()], in[self()]);
  }

  void reduceScatter(const Operation& op) {
    const std::vector<size_t> sizes = bytesOf(op.outCounts, op.dtype), at = startsOf(sizes);
    const size_t longest = *std::max_element(sizes.begin(), sizes.end());
    for (size_t begin = 0; begin < longest; begin += pieceBytes()) {
      const auto length = [&](int member) { return pieceOf(sizes[member], begin); };
      comm_->together([&] {
        for (const int member : others()) {
          if (op.contributes[self()]) comm_->send(op.input.data + at[member] + begin, length(member), member);
          if (op.contributes[member]) comm_->receive(slot(member), length(self()), member);
        }
      });
      std::vector<const std::byte*> parts;
      for (int member = 0; member < size(); ++member) {
        if (op.contributes[member])
          parts.push_back(member == self() ? op.input.data + at[member] + begin : slot(member));
      }
      std::byte* out = op.out.data + begin;
      if (!parts.empty()) fold(op, out, out, parts, length(self()));
    }
  }

  /// Member m adds block m of everyone's buffer and sends it to all.
  void allReduce(const Operation& op) {
    const size_t bytes = op.out.bytes();
    const size_t block = (bytes / size() / kPieceAlign + 1) * kPieceAlign;
    const auto start = [&](int member) { return std::min(bytes, member * block); };
    for (size_t begin = 0; begin < block; begin += pieceBytes()) {
      const auto piece = [&](int member) { return op.out.data + start(member) + begin; };
      const auto length = [&](int member) { return pieceOf(start(member + 1) - start(member), begin); };
      comm_->together([&] {
        for (const int member : others()) {
          comm_->send(piece(member), length(member), member);
          comm_->receive(slot(member), length(self()), member);
        }
      });
      std::vector<const std::byte*> parts;
      for (int member = 0; member < size(); ++member)
        parts.push_back(member == self() ? piece(member) : slot(member));
      fold(op, piece(self()), parts[0], std::span(parts).subspan(1), length(self()));
      comm_->together([&] {
        for (const int member : others()) {
          comm_->send(piece(self()), length(self()), member);
          comm_->receive(piece(member), length(member), member);
        }
      });
    }
  }

  void fold(const Operation& op, std::byte* out, const std::byte* first,
            std::span<const std::byte* const> rest, size_t bytes) {
    if (bytes == 0) return;
    foldOnDevice(op.dtype, op.reduction, out, first, rest, bytes / dtypeBytes(op.dtype));
    comm_->await(Event(computeStream()));
  }

  void copy(std::byte* to, const std::byte* from, size_t bytes) {
    if (to == from || bytes == 0) return;
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, computeStream()));
    comm_->await(Event(computeStream()));
  }

  int self() const { return options_.rank; }

  /// The next one first: members do not all turn to the same one.
  std::vector<int> others() const {
    std::vector<int> members;
    for (int i = 1; i < size(); ++i) members.push_back((self() + i) % size());
    return members;
  }

  static std::vector<size_t> bytesOf(const std::vector<int64_t>& counts, DType dtype) {
    std::vector<size_t> bytes;
    for (const int64_t count : counts) bytes.push_back(static_cast<size_t>(count) * dtypeBytes(dtype));
    return bytes;
  }

  static std::vector<size_t> startsOf(const std::vector<size_t>& bytes) {
    std::vector<size_t> starts(bytes.size());
    std::exclusive_scan(bytes.begin(), bytes.end(), starts.begin(), size_t{0});
    return starts;
  }

  /// Of one member's part of an operation; the same on all members.
  size_t pieceBytes() const {
    return std::max(kScratchBytes / (size() - 1) / kPieceAlign, size_t{1}) * kPieceAlign;
  }
  size_t pieceOf(size_t bytes, size_t begin) const {
    return std::min(pieceBytes(), bytes - std::min(bytes, begin));
  }

  /// Where a piece of another member lies until it is added.
  std::byte* slot(int member) {
    if (scratch_ == nullptr) {
      void* memory = nullptr;
      CUDA_CHECK(cudaMalloc(&memory, pieceBytes() * (size() - 1)));
      scratch_ = static_cast<std::byte*>(memory);
    }
    return scratch_ + pieceBytes() * (member < self() ? member : member - 1);
  }

  void freeScratch() noexcept {
    if (scratch_ != nullptr) cudaFree(scratch_);
    scratch_ = nullptr;
  }

  [[noreturn]] void explain(const nccl::Failure& failure) {
    const auto deadline = std::chrono::steady_clock::now() + kExplainTime;
    while (std::chrono::steady_clock::now() < deadline) waiter_.rest(std::chrono::milliseconds(5));
    const bool line =
        failure.result() == nccl::Result::kRemoteError || failure.result() == nccl::Result::kSystemError;
    throw FaultError(line ? ErrorCode::kPeerDied : ErrorCode::kDevice, -1, failure.what());
  }

  const GroupOptions& options_;
  Waiter& waiter_;
  std::unique_ptr<nccl::Api> api_;
  std::unique_ptr<Communicator> comm_;  // null after abort()
  std::byte* scratch_ = nullptr;
};

/// What a member says before the communicator is made, and after.
struct Ballot {
  int32_t version = 0;    // of its NCCL, 0: it has none
  uint32_t remote = 0;    // the reason lies with another member, whose own says more
  char reason[248] = {};  // why it cannot, empty: it can
  nccl::UniqueId id{};    // of the first member alone
};

class Agreement {
 public:
  Agreement(const GroupOptions& options, const HostGather& gather) : options_(options), gather_(gather) {}

  Ballot& mine() { return ballots_[options_.rank]; }
  void refuse(const std::string& reason, bool remote = false) {
    reason.copy(mine().reason, sizeof(Ballot::reason) - 1);
    mine().remote = remote;
  }
  const Ballot& first() const { return ballots_[0]; }

  /// Everyone's ballot to everyone; why there is no communicator, if there is a reason.
  std::optional<std::string> count() {
    gather_(reinterpret_cast<std::byte*>(ballots_.data()), sizeof(Ballot));
    for (const bool remote : {false, true}) {
      for (int member = 0; member < options_.size(); ++member) {
        Ballot& ballot = ballots_[member];
        ballot.reason[sizeof(Ballot::reason) - 1] = '\0';
        if (ballot.reason[0] != '\0' && (ballot.remote != 0) == remote)
          return concat("rank ", options_.members[member].rank, ": ", ballot.reason);
      }
    }
    for (int member = 0; member < options_.size(); ++member) {
      const Ballot& ballot = ballots_[member];
      if (ballot.version != ballots_[0].version)
        return concat("rank ", options_.members[member].rank, " has NCCL ", nccl::versionText(ballot.version),
                      ", rank ", options_.members[0].rank, " ", nccl::versionText(ballots_[0].version));
    }
    return std::nullopt;
  }

 private:
  const GroupOptions& options_;
  const HostGather& gather_;
  std::vector<Ballot> ballots_ = std::vector<Ballot>(options_.members.size());
};

DeviceLinesFormed byHost(const std::string& why) { return {nullptr, "shared memory and TCP: " + why}; }

}  // namespace

DeviceLinesFormed formDeviceLines(const GroupOptions& options, Waiter& waiter, const HostGather& gather) {
  if (options.hostOnly) return byHost("as the group was asked for");
  if (options.size() == 1) return byHost("a group of one");
  Agreement agreement(options, gather);
  std::unique_ptr<nccl::Api> api;
  try {
    api = std::make_unique<nccl::Api>();
    agreement.mine().version = api->version;
    if (options.rank == 0 && api->getUniqueId(&agreement.mine().id) != nccl::Result::kSuccess)
      agreement.refuse(concat("NCCL cannot listen for members: ", api->getLastError(nullptr)));
  } catch (const NativeError& error) {
    agreement.refuse(error.what());
  }
  if (const auto why = agreement.count()) return byHost(*why);
  std::unique_ptr<Communicator> comm;
  waiter.begin();
  try {
    comm = std::make_unique<Communicator>(*api, waiter, agreement.first().id, options.size(), options.rank);
  } catch (const nccl::Failure& failure) {
    agreement.refuse(failure.what(), failure.result() == nccl::Result::kRemoteError);
  } catch (const NativeError& error) {
    agreement.refuse(error.what());
  }
  if (const auto why = agreement.count()) return byHost(*why);
  const std::string carrier = "NCCL " + nccl::versionText(api->version);
  return {std::make_unique<NcclLines>(options, waiter, std::move(api), std::move(comm)), carrier};
}

}  // namespace goku::collectives
