// Files mapped into memory and shared between processes: control and progress pages, snapshots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include "native/unique_fd.h"

namespace goku {

/// A shared, writable mapping; unmapped with its last holder.
class Page {
 public:
  /// Maps the first `bytes` of the file, which is made (zero bytes, space reserved) if absent or empty.
  /// Throws NATIVE_IO. Space is reserved at once: on a full tmpfs a write to the mapping would kill the
  /// process.
  static std::shared_ptr<Page> map(const std::string& path, size_t bytes);
  ~Page();
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  /// The file, open as long as the mapping; other processes find it by this descriptor.
  int fd() const { return file_.get(); }
  /// Of this mapping and no other shared memory of the process.
  uint32_t number() const { return number_; }

  /// Held while a device reaches the memory (memory::reachable).
  std::weak_ptr<void> reached;

 private:
  Page(std::byte* data, size_t bytes, UniqueFd file);
  std::byte* data_;
  size_t bytes_;
  UniqueFd file_;
  uint32_t number_;
};

/// What JavaScript's ArrayBuffer holds; emptied by pageUnmap.
struct PageHolder {
  std::shared_ptr<Page> page;
};

/// The mappings that JavaScript holds, by address. One per environment.
class PageTable {
 public:
  void add(const std::shared_ptr<PageHolder>& holder) { holders_[holder->page->data()] = holder; }
  /// The page at this address, or null; whoever keeps it outlives pageUnmap.
  std::shared_ptr<Page> find(const std::byte* data) const;
  /// JavaScript lets go of it: unmapped now, unless somebody keeps it.
  void remove(const std::byte* data);

 private:
  // Weak: a page dropped without pageUnmap goes with its ArrayBuffer.
  std::unordered_map<const std::byte*, std::weak_ptr<PageHolder>> holders_;
};

}  // namespace goku
