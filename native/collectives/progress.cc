#include "native/collectives/progress.h"

#include <algorithm>
#include <cstring>

#include "native/collectives/pages.h"
#include "native/collectives/wire.h"

namespace goku::collectives {
namespace {

template <class T>
void store(std::byte* page, uint32_t offset, T value) {
  __atomic_store_n(reinterpret_cast<T*>(page + offset), value, __ATOMIC_RELEASE);
}

}  // namespace

uint64_t Progress::enter(std::byte* page, uint64_t generation, Kind kind, const std::string& group,
                         uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (generation > generation_) {
    generation_ = generation;
    entered_ = 0;
    open_.clear();
    store<uint64_t>(page, pages::progress::collectiveEntered, 0);
    store<uint64_t>(page, pages::progress::collectiveCompleted, 0);
  }
  if (generation < generation_) return 0;  // a group that outlived its generation is nobody's progress
  const uint64_t number = ++entered_;
  const Entry& entry = open_.emplace(number, Entry{kind, group, bytes}).first->second;
  if (open_.size() == 1) describe(page, entry);
  store(page, pages::progress::collectiveEntered, number);
  return number;
}

void Progress::complete(std::byte* page, uint64_t generation, uint64_t number) {
  const std::lock_guard lock(mutex_);
  if (generation != generation_ || open_.erase(number) == 0) return;
  store(page, pages::progress::collectiveCompleted, open_.empty() ? entered_ : open_.begin()->first - 1);
  if (!open_.empty()) describe(page, open_.begin()->second);
}

void Progress::describe(std::byte* page, const Entry& entry) const {
  store(page, pages::progress::collectiveKind, static_cast<uint32_t>(entry.kind));
  store(page, pages::progress::collectiveGroup, fnv1a32(entry.group));
  store(page, pages::progress::collectiveBytes, entry.bytes);
  char name[pages::kGroupNameBytes] = {};
  std::memcpy(name, entry.group.data(), std::min(entry.group.size(), sizeof(name)));
  std::memcpy(page + pages::progress::collectiveGroupName, name, sizeof(name));
}

}  // namespace goku::collectives
