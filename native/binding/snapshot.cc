// snapshotStart, snapshotFence, snapshotWait.
#include "native/kernels/snapshot.h"

#include <unordered_map>
#include <utility>

#include "native/binding/call.h"

namespace goku {
namespace {

/// Those of one environment that have not been waited for.
class Snapshots {
 public:
  uint64_t add(std::unique_ptr<Snapshot> snapshot) {
    underWay_.emplace(++last_, std::move(snapshot));
    return last_;
  }
  std::unordered_map<uint64_t, std::unique_ptr<Snapshot>>::iterator find(const Call& call) {
    const auto found = underWay_.find(static_cast<uint64_t>(call.count(0)));
    if (found == underWay_.end()) call.reject(0, "snapshot ", call.count(0), " is over or unknown");
    return found;
  }
  /// Not under way from here on, however its wait ends.
  std::unique_ptr<Snapshot> take(const Call& call) {
    return std::move(underWay_.extract(find(call)).mapped());
  }

 private:
  std::unordered_map<uint64_t, std::unique_ptr<Snapshot>> underWay_;
  uint64_t last_ = 0;
};

}  // namespace

void RegisterSnapshot(Registry& registry) {
  registry.add("snapshotStart", [](Call& c) {
    c.returns(
        static_cast<double>(c.context().service<Snapshots>().add(startSnapshot(c.tensors(0), c.tensors(1)))));
  });
  registry.add("snapshotFence", [](Call& c) { c.context().service<Snapshots>().find(c)->second->fence(); });
  registry.add("snapshotWait", [](Call& c) { c.context().service<Snapshots>().take(c)->wait(c.uint32s(1)); });
}

}  // namespace goku
