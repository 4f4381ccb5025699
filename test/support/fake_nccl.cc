// A stand-in for NVIDIA's libnccl.so.2, between processes with emulated devices
// (native/cuda/emulated_device.h). What members send goes through a file in the folder $GOKU_FAKE_NCCL. It
// does what NCCL's documentation says of communicators that do not block, and is as unkind:
//
//   a call on a communicator that is not done with the last one is an invalid argument
//   members that call different operations, or with different counts, wait for ever
//   a member that ends says nothing: the others wait until they abort; one that aborts is a remote error to
//   them two members on one device of one host (NCCL_HOSTID) are an invalid usage
//
// The file `done` there has a byte for every group of operations that a member has ended well; `orders` makes
// it fail, a line each (fake_nccl.ts writes it):
//
//   version 22000    what ncclGetVersion says
//   refuse 1 5       member 1 cannot make its communicator: an ncclResult_t
//   hang 2           member 2 takes no part in the operations that it starts from now on
//   async 2 6        nor here, and has an asynchronous error
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "native/cuda/emulated_device.h"

namespace {

using goku::cudaStream_t;

constexpr int kSuccess = 0, kSystemError = 2, kInvalidArgument = 4, kInvalidUsage = 5, kRemoteError = 6,
              kInProgress = 7;
constexpr int kMembersMax = 8;
constexpr size_t kRingBytes = 64 << 10;
constexpr std::chrono::microseconds kNap{50};
// So long NCCL is at least busy with what it was given.
constexpr std::chrono::microseconds kDelay{500};

struct UniqueId {
  char text[128];
};
struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};

std::string fileNamed(const std::string& name) {
  return std::string(std::getenv("GOKU_FAKE_NCCL")) + "/" + name;
}

/// What follows `word`, and for those of a member its number, in the orders.
std::optional<int> ordered(const std::string& word, int member = -1) {
  std::ifstream file(fileNamed("orders"));
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string found;
    int number = 0, value = 0;
    words >> found;
    if (found != word) continue;
    if (member >= 0 && !(words >> number && number == member)) continue;
    words >> value;
    return value;
  }
  return std::nullopt;
}

struct Header {
  uint64_t tag, bytes;
};

struct Ring {
  std::atomic<uint64_t> written, read;
  char bytes[kRingBytes];

  size_t put(const char* from, size_t count) {
    const uint64_t at = written;
    count = std::min<size_t>(count, kRingBytes - (at - read));
    for (size_t i = 0; i < count; i++) bytes[(at + i) % kRingBytes] = from[i];
    written = at + count;
    return count;
  }
  size_t take(char* to, size_t count) {
    const uint64_t at = read;
    count = std::min<size_t>(count, written - at);
    for (size_t i = 0; i < count; i++) to[i] = bytes[(at + i) % kRingBytes];
    read = at + count;
    return count;
  }
};

struct Member {
  std::atomic<int> here, gone;
  char device[128];
};

struct Shared {
  Member members[kMembersMax];
  Ring rings[kMembersMax][kMembersMax];  // [from][to]
};

/// The device's memory is out of the host's reach, but not of this file.
class DeviceMemory {
 public:
  DeviceMemory() : file_(open("/proc/self/mem", O_RDWR | O_CLOEXEC)) {}
  ~DeviceMemory() { close(file_); }
  void read(char* to, const char* from, size_t bytes) const {
    if (pread(file_, to, bytes, reinterpret_cast<off_t>(from)) != static_cast<ssize_t>(bytes)) std::abort();
  }
  void write(char* to, const char* from, size_t bytes) const {
    if (pwrite(file_, from, bytes, reinterpret_cast<off_t>(to)) != static_cast<ssize_t>(bytes)) std::abort();
  }

 private:
  int file_;
};

/// Bytes to a member, or from one, on their way.
struct Move {
  bool out;
  int peer;
  Header header;
  char* data;
  size_t headed = 0, moved = 0;
  Header theirs{};
  bool lost = false;  // the other end has called something else

  bool done() const { return headed == sizeof(Header) && moved == header.bytes && !lost; }

  void step(Ring& ring, const DeviceMemory& memory) {
    if (lost) return;
    char piece[4096];
    if (out) {
      if (headed < sizeof(Header))
        headed += ring.put(reinterpret_cast<const char*>(&header) + headed, sizeof(Header) - headed);
      while (headed == sizeof(Header) && moved < header.bytes) {
        const size_t want = std::min(sizeof(piece), header.bytes - moved);
        memory.read(piece, data + moved, want);
        const size_t put = ring.put(piece, want);
        moved += put;
        if (put < want) return;
      }
      return;
    }
    if (headed < sizeof(Header)) {
      headed += ring.take(reinterpret_cast<char*>(&theirs) + headed, sizeof(Header) - headed);
      if (headed == sizeof(Header)) lost = theirs.tag != header.tag || theirs.bytes != header.bytes;
    }
    while (!lost && headed == sizeof(Header) && moved < header.bytes) {
      const size_t took = ring.take(piece, std::min(sizeof(piece), header.bytes - moved));
      if (took == 0) return;
      memory.write(data + moved, piece, took);
      moved += took;
    }
  }
};

std::mutex errorMutex;
char lastError[256];
int fail(int code, const std::string& why) {
  const std::lock_guard lock(errorMutex);
  std::snprintf(lastError, sizeof lastError, "%s", why.c_str());
  return code;
}

}  // namespace

struct ncclComm {
  ncclComm(Shared* shared, int size, int rank, std::string file)
      : shared(shared), size(size), rank(rank), file(std::move(file)) {
    thread = std::thread([this] { work(); });
  }

  struct Group {
    std::vector<Move> moves;
    cudaStream_t stream = nullptr;
  };

  Shared* shared;
  int size, rank;
  std::string file;
  std::atomic<int> state{kInProgress};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Group> groups;
  DeviceMemory memory;
  cudaStream_t last = nullptr;  // all groups are given to one
  std::thread thread;

  void work() {
    state = meet();
    std::unique_lock lock(mutex);
    while (!stop) {
      if (groups.empty()) {
        changed.wait_for(lock, std::chrono::milliseconds(20));
        continue;
      }
      Group group = std::move(groups.front());
      groups.pop_front();
      lock.unlock();
      perform(group);
      lock.lock();
    }
  }

  /// Waits for all members.
  int meet() {
    Member& mine = shared->members[rank];
    const char* host = std::getenv("NCCL_HOSTID");
    const char* device = std::getenv("CUDA_VISIBLE_DEVICES");
    std::snprintf(mine.device, sizeof mine.device, "%s/%s", host ? host : "", device ? device : "0");
    if (const auto code = ordered("refuse", rank)) return fail(*code, "refused by order");
    mine.here = 1;
    for (int i = 0; i < size; i++) {
      while (shared->members[i].here == 0 && shared->members[i].gone == 0) {
        if (stop) return kInProgress;
        std::this_thread::sleep_for(kNap);
      }
      if (shared->members[i].gone != 0) return fail(kRemoteError, "a member closed its connection");
    }
    std::this_thread::sleep_for(kDelay);
    for (int i = 0; i < size; i++)
      for (int j = 0; j < i; j++)
        if (std::strcmp(shared->members[i].device, shared->members[j].device) == 0)
          return fail(kInvalidUsage, "Duplicate GPU detected : rank " + std::to_string(j) + " and rank " +
                                         std::to_string(i));
    return kSuccess;
  }

  void perform(Group& group) {
    std::this_thread::sleep_for(kDelay);
    {
      const std::lock_guard lock(mutex);
      if (stop) return;  // after ncclCommAbort nothing begins
      last = group.stream;
      last->groups->given++;
    }
    state = kSuccess;
    if (const auto code = ordered("async", rank)) {
      std::this_thread::sleep_for(4 * kDelay);
      state = fail(*code, "failed by order");
      return;
    }
    if (ordered("hang", rank)) return;
    while (!stop) {
      bool done = true;
      std::vector<bool> busyOut(size), busyIn(size);  // bytes of one line keep their order
      for (Move& move : group.moves) {
        auto& busy = move.out ? busyOut : busyIn;
        if (move.done() || busy[move.peer]) continue;
        Ring& ring = move.out ? shared->rings[rank][move.peer] : shared->rings[move.peer][rank];
        move.step(ring, memory);
        if (move.done()) continue;
        done = false;
        busy[move.peer] = true;
        if (shared->members[move.peer].gone != 0) {
          state = fail(kRemoteError, "a member closed its connection");
          return;
        }
      }
      if (done) {
        count();
        group.stream->groups->done++;
        return;
      }
      std::this_thread::sleep_for(kNap);
    }
  }

  /// A byte for each group of operations that was done here.
  static void count() {
    const int file = open(fileNamed("done").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0 || write(file, ".", 1) != 1) std::abort();
    close(file);
  }

  /// What was not done stays on its stream until here.
  void end() {
    stop = true;
    changed.notify_all();
    thread.join();
    munmap(shared, sizeof(Shared));
    if (last != nullptr) last->groups->done = last->groups->given.load();
  }
};

namespace {

thread_local int depth = 0;
thread_local std::vector<std::pair<ncclComm*, ncclComm::Group>> gathered;

int submit() {
  int result = kSuccess;
  for (auto& [comm, group] : gathered) {
    comm->state = kInProgress;
    const std::lock_guard lock(comm->mutex);
    comm->groups.push_back(std::move(group));
    comm->changed.notify_all();
    result = kInProgress;
  }
  gathered.clear();
  return result;
}

int call(ncclComm* comm, cudaStream_t stream, std::vector<Move> moves) {
  if (comm == nullptr || comm->state != kSuccess)
    return fail(kInvalidArgument, "used before the previous operation returned ncclSuccess");
  if (stream == nullptr) return fail(kInvalidUsage, "the default stream, which waits for all others");
  auto found = std::find_if(gathered.begin(), gathered.end(), [&](auto& one) { return one.first == comm; });
  if (found == gathered.end()) found = gathered.insert(found, {comm, ncclComm::Group{{}, stream}});
  auto& list = found->second.moves;
  list.insert(list.end(), moves.begin(), moves.end());
  return depth == 0 ? submit() : kSuccess;
}

enum Tag : uint64_t { kPair = 1, kGather = 2, kRoot = 3 };

Move outgoing(int peer, Tag tag, const void* data, size_t bytes) {
  return {true, peer, {tag, bytes}, static_cast<char*>(const_cast<void*>(data))};
}
Move incoming(int peer, Tag tag, void* data, size_t bytes) {
  return {false, peer, {tag, bytes}, static_cast<char*>(data)};
}

ncclComm* openComm(int size, int rank, const UniqueId& id) {
  const std::string file = fileNamed(std::string(id.text, strnlen(id.text, sizeof id.text)));
  const int fd = open(file.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  return memory == MAP_FAILED ? nullptr : new ncclComm(static_cast<Shared*>(memory), size, rank, file);
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  *version = ordered("version").value_or(23007);
  return kSuccess;
}

int ncclGetUniqueId(UniqueId* id) {
  static std::atomic<int> number{0};
  std::snprintf(id->text, sizeof id->text, "id-%d-%d", getpid(), number++);
  const int fd = open(fileNamed(id->text).c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  const bool whole = fd >= 0 && ftruncate(fd, sizeof(Shared)) == 0;
  if (fd >= 0) close(fd);
  return whole ? kSuccess : kSystemError;
}

int ncclCommInitRankConfig(ncclComm** comm, int size, UniqueId id, int rank, Config* config) {
  if (config->magic != 0xcafebeef || config->blocking != 0 || size > kMembersMax) return kInvalidArgument;
  *comm = openComm(size, rank, id);
  return *comm == nullptr ? kSystemError : kInProgress;
}

int ncclCommGetAsyncError(ncclComm* comm, int* state) {
  *state = comm->state;
  return kSuccess;
}

const char* ncclGetLastError(ncclComm*) { return lastError; }

int ncclGroupStart() {
  depth++;
  return kSuccess;
}

int ncclGroupEnd() {
  if (depth == 0) return kInvalidUsage;
  return --depth == 0 ? submit() : kSuccess;
}

int ncclSend(const void* from, size_t count, int, int peer, ncclComm* comm, cudaStream_t stream) {
  return call(comm, stream, {outgoing(peer, kPair, from, count)});
}

int ncclRecv(void* to, size_t count, int, int peer, ncclComm* comm, cudaStream_t stream) {
  return call(comm, stream, {incoming(peer, kPair, to, count)});
}

int ncclAllGather(const void* from, void* to, size_t count, int, ncclComm* comm, cudaStream_t stream) {
  std::vector<Move> moves;
  for (int peer = 0; comm != nullptr && peer < comm->size; peer++) {
    moves.push_back(outgoing(peer, kGather, from, count));
    moves.push_back(
        incoming(peer, kGather, static_cast<char*>(to) + static_cast<size_t>(peer) * count, count));
  }
  return call(comm, stream, std::move(moves));
}

int ncclBroadcast(const void* from, void* to, size_t count, int, int root, ncclComm* comm,
                  cudaStream_t stream) {
  std::vector<Move> moves;
  if (comm != nullptr && comm->rank == root) {
    for (int peer = 0; peer < comm->size; peer++)
      if (peer != root) moves.push_back(outgoing(peer, kRoot, from, count));
  } else if (comm != nullptr) {
    moves.push_back(incoming(root, kRoot, to, count));
  }
  return call(comm, stream, std::move(moves));
}

int ncclCommFinalize(ncclComm* comm) {
  const std::lock_guard lock(comm->mutex);
  return comm->groups.empty() && comm->state == kSuccess ? kSuccess : kInvalidUsage;
}

int ncclCommDestroy(ncclComm* comm) {
  comm->end();
  delete comm;
  return kSuccess;
}

// Returns before its kernels have ended.
int ncclCommAbort(ncclComm* comm) {
  comm->shared->members[comm->rank].gone = 1;
  {
    const std::lock_guard lock(comm->mutex);
    comm->stop = true;
  }
  std::thread([comm] {
    std::this_thread::sleep_for(4 * kDelay);
    ncclCommDestroy(comm);
  }).detach();
  return kInProgress;
}

}  // extern "C"
