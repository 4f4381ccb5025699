#include "native/kernels/snapshot.h"

#include <algorithm>
#include <cstring>

#include "native/kernels/checks.h"
#include "native/kernels/optimizer.h"

namespace goku {
namespace {

/// Over when it has started: nothing runs beside the calling thread.
class CopiedSnapshot final : public Snapshot {
 public:
  CopiedSnapshot(const std::vector<Tensor>& from, const std::vector<Tensor>& to)
      : checksums_(static_cast<size_t>(checks::snapshot(from, to))) {
    std::span<uint32_t> left(checksums_);
    for (size_t i = 0; i < from.size(); i++) {
      if (from[i].count == 0) continue;
      std::memcpy(to[i].data, from[i].data, from[i].bytes());
      const auto chunks = static_cast<size_t>(checksumsOf(static_cast<int64_t>(from[i].bytes())));
      tensorChecksums(to[i], left.first(chunks));
      left = left.subspan(chunks);
    }
  }

  void fence() override {}
  void wait(std::span<uint32_t> checksums) override {
    checks::snapshotChecksums(checksums, checksums_.size());
    std::copy_n(checksums_.begin(), checksums.size(), checksums.begin());
  }

 private:
  std::vector<uint32_t> checksums_;
};

}  // namespace

std::unique_ptr<Snapshot> startSnapshot(std::vector<Tensor> from, std::vector<Tensor> to) {
  return std::make_unique<CopiedSnapshot>(from, to);
}

}  // namespace goku
