#include "native/cuda/emulated_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "native/cuda/emulated_memory.h"
#include "native/cuda/emulated_streams.h"
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

}  // namespace

size_t deviceBytes() {
  static const size_t bytes = setting("GOKU_EMULATED_MIB", 8192) << 20;
  return bytes;
}

bool isVisible() { return !visibleDevices().empty(); }

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
  emulated::runStreams();  // what they free counts
  *free = emulated::deviceMemory().freeBytes();
  *total = emulated::deviceBytes();
  return cudaSuccess;
}
}  // namespace goku
