#include "native/page.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "native/allocator.h"
#include "native/error.h"
#include "native/unique_fd.h"

namespace goku {
namespace {

[[noreturn]] void fail(const std::string& path, size_t bytes, const std::string& why) {
  throw NativeError(ErrorCode::kIo, concat("Cannot map ", bytes, " bytes of ", path, ": ", why));
}

}  // namespace

std::shared_ptr<Page> Page::map(const std::string& path, size_t bytes) {
  GOKU_CHECK(bytes > 0, "pageMap: 0 bytes of ", path, ", want 1 or more");
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file) fail(path, bytes, std::strerror(errno));
  struct stat info;
  if (fstat(file.get(), &info) != 0) fail(path, bytes, std::strerror(errno));
  if (info.st_size == 0) {
    // Never shrinks: another process may be doing the same.
    const int error = posix_fallocate(file.get(), 0, static_cast<off_t>(bytes));
    if (error != 0) fail(path, bytes, std::strerror(error));
  } else if (static_cast<size_t>(info.st_size) < bytes) {
    fail(path, bytes, concat("the file has ", info.st_size, " bytes, remove it"));
  }
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (memory == MAP_FAILED) fail(path, bytes, std::strerror(errno));
  return std::shared_ptr<Page>(new Page(static_cast<std::byte*>(memory), bytes, std::move(file)));
}

Page::Page(std::byte* data, size_t bytes, UniqueFd file)
    : data_(data), bytes_(bytes), file_(std::move(file)), number_(nextSegmentNumber()) {}

Page::~Page() { munmap(data_, bytes_); }

std::shared_ptr<Page> PageTable::find(const std::byte* data) const {
  const auto found = holders_.find(data);
  const auto holder = found == holders_.end() ? nullptr : found->second.lock();
  return holder ? holder->page : nullptr;
}

void PageTable::remove(const std::byte* data) {
  const auto found = holders_.find(data);
  if (found == holders_.end()) return;
  if (const auto holder = found->second.lock()) holder->page.reset();
  holders_.erase(found);
}

}  // namespace goku
