#include "native/cuda/emulated_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "native/error.h"

// gokuSwitchStack(save, next): keeps this stack's pointer in *save and goes on where `next` was kept.
// ucontext would ask the kernel for the signal mask at every switch.
asm(R"(
.text
.type gokuSwitchStack,@function
gokuSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size gokuSwitchStack,.-gokuSwitchStack
)");
extern "C" void gokuSwitchStack(void** save, void* next);

namespace goku {
namespace emulated {
namespace {

constexpr size_t kStackBytes = size_t{64} << 10;
constexpr int kThreadsMax = 1024;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Copy {
  void* to;
  const void* from;  // null: zeros
  size_t bytes;
  unsigned group;
};

struct Fiber {
  void* stack = nullptr;
  State state = State::kDone;
  unsigned exchanges = 0;
  unsigned groups = 0;       // of copies that it has closed
  std::vector<Copy> copies;  // not waited for, in the order of their groups
};

/// One host thread's emulated multiprocessor.
class Processor {
 public:
  Processor()
      : stacks_(static_cast<std::byte*>(mmap(nullptr, kThreadsMax * kStackBytes, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))),
        fibers_(kThreadsMax),
        words_(kThreadsMax / kLanesPerWarp) {}
  ~Processor() { munmap(stacks_, kThreadsMax * kStackBytes); }
  Processor(const Processor&) = delete;
  Processor& operator=(const Processor&) = delete;

  void runBlock(int threads, size_t sharedBytes, bool backwards, const std::function<void()>& body) {
    // Two quiet NaNs to an f64, one to an f32.
    shared_.assign(sharedBytes / sizeof(Line) + 1, Line{});
    std::memset(shared_.data(), 0xff, shared_.size() * sizeof(Line));
    body_ = &body;
    threads_ = threads;
    for (int i = 0; i < threads; i++) start(i);
    const int warps = threads / kLanesPerWarp;
    while (true) {
      for (int n = 0; n < warps; n++) runWarp((backwards ? warps - 1 - n : n) * kLanesPerWarp, backwards);
      if (all(0, threads, State::kDone)) return;
      if (!all(0, threads, State::kAtBlock)) {
        throw NativeError(
            ErrorCode::kDevice,
            concat(
                "Cannot go on with block ", blockIdx.x,
                " of a kernel: some of its threads wait at a barrier, others have ended or wait at another"));
      }
      release(0, threads);
    }
  }

  void wait(State at) {
    Fiber& fiber = fibers_[current_];
    fiber.state = at;
    gokuSwitchStack(&fiber.stack, scheduler_);
  }

  std::byte* shared() { return reinterpret_cast<std::byte*>(shared_.data()); }

  const WarpWords& exchange(std::span<const uint32_t> words) {
    const unsigned turn = fibers_[current_].exchanges++ % 2;
    WarpWords& table = words_[current_ / kLanesPerWarp].turns[turn];
    std::copy(words.begin(), words.end(), table[current_ % kLanesPerWarp]);
    wait(State::kAtWarp);
    return table;
  }

  void beginCopy(void* to, const void* from, size_t bytes) {
    Fiber& fiber = fibers_[current_];
    std::memset(to, 0xff, bytes);
    fiber.copies.push_back({to, from, bytes, fiber.groups});
  }

  void commitCopies() { fibers_[current_].groups++; }

  void waitCopies(unsigned groups) {
    Fiber& fiber = fibers_[current_];
    auto done = fiber.copies.begin();
    for (; done != fiber.copies.end() && done->group + groups < fiber.groups; ++done) {
      if (done->from == nullptr) {
        std::memset(done->to, 0, done->bytes);
      } else {
        std::memcpy(done->to, done->from, done->bytes);
      }
    }
    fiber.copies.erase(fiber.copies.begin(), done);
  }

  void runBody() {
    (*body_)();
    wait(State::kDone);
  }

 private:
  struct alignas(128) Line {
    std::byte bytes[128];
  };
  struct Turns {
    WarpWords turns[2];
  };

  void start(int i);

  void resume(int i) {
    current_ = i;
    threadIdx.x = static_cast<unsigned>(i);
    gokuSwitchStack(&scheduler_, fibers_[i].stack);
  }

  /// Until its threads cannot go on without others of the block.
  void runWarp(int begin, bool backwards) {
    const int end = begin + kLanesPerWarp;
    while (true) {
      for (int n = 0; n < kLanesPerWarp; n++) {
        const int i = backwards ? end - 1 - n : begin + n;
        if (fibers_[i].state == State::kReady) resume(i);
      }
      if (!all(begin, end, State::kAtWarp)) return;
      release(begin, end);
    }
  }

  bool all(int begin, int end, State state) const {
    return std::all_of(fibers_.begin() + begin, fibers_.begin() + end,
                       [&](const Fiber& fiber) { return fiber.state == state; });
  }

  void release(int begin, int end) {
    for (int i = begin; i < end; i++) fibers_[i].state = State::kReady;
  }

  std::byte* stacks_;
  std::vector<Fiber> fibers_;
  std::vector<Turns> words_;
  std::vector<Line> shared_;
  const std::function<void()>* body_ = nullptr;
  int threads_ = 0;
  int current_ = 0;
  void* scheduler_ = nullptr;
};

Processor& processor() {
  thread_local Processor processor;
  return processor;
}

void enter() { processor().runBody(); }

void Processor::start(int i) {
  // Six registers, the place to go on, and where that would return to: nowhere.
  auto** top = reinterpret_cast<void**>(stacks_ + (static_cast<size_t>(i) + 1) * kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&enter);
  for (int n = 0; n < 6; n++) *--top = nullptr;
  fibers_[i] = {.stack = top, .state = State::kReady};
}

/// A number from the environment, which stands in for a machine's.
size_t setting(const char* name, size_t usual) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == 0 ? usual : std::strtoull(text, nullptr, 10);
}

size_t deviceBytes() {
  static const size_t bytes = setting("GOKU_EMULATED_MIB", 8192) << 20;
  return bytes;
}

/// Numbers of the devices that this process sees; as with CUDA, what the variable says at the first look
/// counts, and what follows an unknown number is not seen.
const std::vector<size_t>& visibleDevices() {
  static const std::vector<size_t> devices = [] {
    const size_t all = setting("GOKU_EMULATED_DEVICES", 1);
    const char* list = std::getenv("CUDA_VISIBLE_DEVICES");
    std::vector<size_t> seen;
    if (list == nullptr) {
      for (size_t i = 0; i < all; i++) seen.push_back(i);
      return seen;
    }
    while (*list != 0) {
      char* end = nullptr;
      const size_t number = std::strtoull(list, &end, 10);
      if (end == list || number >= all) break;
      seen.push_back(number);
      list = *end == ',' ? end + 1 : end;
    }
    return seen;
  }();
  return devices;
}

/// Memory of the emulated device: out of reach but for kernels and copies.
class DeviceMemory {
 public:
  size_t freeBytes() {
    const std::lock_guard lock(mutex_);
    return deviceBytes() - used_;
  }
  /// Null: there is not so much left.
  std::byte* map(size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      if (bytes > deviceBytes() - used_) return nullptr;
      used_ += bytes;
    }
    void* start = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const std::lock_guard lock(mutex_);
    if (start == MAP_FAILED) {
      used_ -= bytes;
      return nullptr;
    }
    if (users_ > 0) mprotect(start, bytes, PROT_READ | PROT_WRITE);
    runs_[static_cast<std::byte*>(start)] = bytes;
    return static_cast<std::byte*>(start);
  }
  void unmap(std::byte* start) {
    const std::lock_guard lock(mutex_);
    const auto found = runs_.find(start);
    if (found == runs_.end()) return;
    munmap(start, found->second);
    used_ -= found->second;
    runs_.erase(found);
  }
  void open() {
    const std::lock_guard lock(mutex_);
    if (users_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::lock_guard lock(mutex_);
    if (--users_ == 0) protect(PROT_NONE);
  }

 private:
  void protect(int how) {
    for (const auto& [start, bytes] : runs_) mprotect(start, bytes, how);
  }
  std::mutex mutex_;
  std::map<std::byte*, size_t> runs_;
  size_t used_ = 0;
  int users_ = 0;
};

DeviceMemory& deviceMemory() {
  static DeviceMemory memory;
  return memory;
}

class Opened {
 public:
  Opened() { deviceMemory().open(); }
  ~Opened() { deviceMemory().close(); }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
};

}  // namespace

void run(int64_t blocks, int threads, size_t sharedBytes, const std::function<void()>& thread) {
  GOKU_CHECK(threads >= 1 && threads <= kThreadsMax && threads % kLanesPerWarp == 0, "kernel: ", threads,
             " threads a block, want whole warps, at most ", kThreadsMax);
  GOKU_CHECK(blocks >= 1 && blocks < (int64_t{1} << 31), "kernel: ", blocks, " blocks, want 1 to 2^31 - 1");
  const Opened opened;
  blockDim.x = static_cast<unsigned>(threads);
  gridDim.x = static_cast<unsigned>(blocks);
  for (int64_t block = 0; block < blocks; block++) {
    blockIdx.x = static_cast<unsigned>(block);
    processor().runBlock(threads, sharedBytes, block % 2 != 0, thread);
  }
}

std::byte* dynamicShared() { return processor().shared(); }
void syncBlock() { processor().wait(State::kAtBlock); }
const WarpWords& exchange(std::span<const uint32_t> words) { return processor().exchange(words); }
void beginCopy(void* shared, const void* from, size_t bytes) { processor().beginCopy(shared, from, bytes); }
void commitCopies() { processor().commitCopies(); }
void waitCopies(unsigned groups) { processor().waitCopies(groups); }

}  // namespace emulated

const char* cudaGetErrorName(cudaError_t error) {
  if (error == cudaErrorNoDevice) return "cudaErrorNoDevice";
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaSuccess";
}
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorNoDevice) return "no CUDA-capable device is detected";
  return error == cudaErrorMemoryAllocation ? "out of memory" : "no error";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = static_cast<int>(emulated::visibleDevices().size());
  return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const size_t number = emulated::visibleDevices()[static_cast<size_t>(device)];
  std::snprintf(properties->name, sizeof properties->name, "emulated %zu", number);
  properties->totalGlobalMem = emulated::deviceBytes();
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = emulated::deviceMemory().freeBytes();
  *total = emulated::deviceBytes();
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (emulated::visibleDevices().empty()) return cudaErrorNoDevice;
  *memory = emulated::deviceMemory().map(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  emulated::deviceMemory().unmap(static_cast<std::byte*>(memory));
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) { return cudaFree(memory); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  const emulated::Opened opened;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t toPitch, const void* from, size_t fromPitch, size_t width,
                              size_t height, cudaMemcpyKind, cudaStream_t) {
  const emulated::Opened opened;
  for (size_t row = 0; row < height; row++)
    std::memcpy(static_cast<std::byte*>(to) + row * toPitch,
                static_cast<const std::byte*>(from) + row * fromPitch, width);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  const emulated::Opened opened;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }

}  // namespace goku
