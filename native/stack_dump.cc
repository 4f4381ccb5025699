#include "native/stack_dump.h"

#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "native/error.h"

// Everything below the first line of a handler must be safe in one: no allocation, no lock, no stdio.
// backtrace() is, once it has been called before (its first call loads the unwinder).

namespace goku {
namespace {

constexpr int kFrames = 64;
// A thread that does not answer (its signals blocked, or in the unwinder's lock) is left out.
constexpr int kPatienceMs = 50;

std::atomic<int> file{-1};
/// Thread whose turn it is; 0: it has written.
std::atomic<pid_t> turn{0};

int threadSignal() { return SIGRTMIN + 6; }

pid_t ownThread() { return static_cast<pid_t>(syscall(SYS_gettid)); }

/// Text of one thread, gathered before one write, so that threads do not mix.
class Text {
 public:
  void add(const char* text) {
    while (*text != 0 && size_ < bytes_.size()) bytes_[size_++] = *text++;
  }
  void number(uint64_t value, unsigned base) {
    std::array<char, 24> digits{};
    size_t at = digits.size() - 1;
    do {
      digits[--at] = "0123456789abcdef"[value % base];
      value /= base;
    } while (value != 0);
    add(&digits[at]);
  }
  void write() const {
    // Nothing can be done about an error here.
    [[maybe_unused]] const ssize_t written = ::write(file.load(), bytes_.data(), size_);
  }

 private:
  std::array<char, 2048> bytes_;
  size_t size_ = 0;
};

/// Where the thread was when the signal came.
uintptr_t interrupted(const void* context) {
  const auto& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  return static_cast<uintptr_t>(machine.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return static_cast<uintptr_t>(machine.pc);
#else
#error "stack_dump: no program counter known for this machine"
#endif
}

void writeOwn(const void* context) {
  std::array<void*, kFrames> frames{};
  const int count = backtrace(frames.data(), kFrames);
  const uintptr_t here = interrupted(context);
  int first = 0;  // this handler's own frames come before
  while (first < count && reinterpret_cast<uintptr_t>(frames[static_cast<size_t>(first)]) != here) ++first;
  std::array<char, 16> name{};
  prctl(PR_GET_NAME, name.data());
  Text text;
  text.add("thread ");
  text.number(static_cast<uint64_t>(ownThread()), 10);
  text.add(" ");
  text.add(name.data());
  if (first == count) {
    text.add("\n");
    text.number(here, 16);
  }
  for (int i = first; i < count; ++i) {
    text.add("\n");
    text.number(reinterpret_cast<uintptr_t>(frames[static_cast<size_t>(i)]), 16);
  }
  text.add("\n");
  text.write();
}

void onTurn(int, siginfo_t*, void* context) {
  const int kept = errno;
  if (turn.load() == ownThread()) {
    writeOwn(context);
    turn.store(0);
  }
  errno = kept;
}

void ask(pid_t thread) {
  turn.store(thread);
  if (syscall(SYS_tgkill, getpid(), thread, threadSignal()) != 0) return;
  for (int waited = 0; turn.load() != 0 && waited < kPatienceMs; ++waited) {
    const timespec millisecond{0, 1'000'000};
    nanosleep(&millisecond, nullptr);
  }
}

void onAsked(int, siginfo_t*, void* context) {
  const int kept = errno;
  writeOwn(context);
  const int folder = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  alignas(8) std::array<char, 4096> entries;
  for (long bytes = 0;
       folder >= 0 && (bytes = syscall(SYS_getdents64, folder, entries.data(), entries.size())) > 0;) {
    struct Entry {  // linux_dirent64
      uint64_t inode;
      int64_t offset;
      uint16_t size;
      uint8_t type;
      char name[1];
    };
    for (long at = 0; at < bytes;) {
      const auto* entry = reinterpret_cast<const Entry*>(entries.data() + at);
      at += entry->size;
      pid_t thread = 0;
      for (const char* digit = entry->name; *digit >= '0' && *digit <= '9'; ++digit)
        thread = thread * 10 + (*digit - '0');
      if (thread != 0 && thread != ownThread()) ask(thread);
    }
  }
  if (folder >= 0) close(folder);
  Text text;
  text.add("end\n");
  text.write();
  errno = kept;
}

void install(int signal, void (*handler)(int, siginfo_t*, void*)) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigemptyset(&action.sa_mask);
  GOKU_CHECK(sigaction(signal, &action, nullptr) == 0, "stackDumpInstall: signal ", signal, ": ",
             strerror(errno));
}

}  // namespace

void installStackDump(const std::string& path) {
  const int opened = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (opened < 0)
    throw NativeError(ErrorCode::kIo, concat("stackDumpInstall: cannot open ", path, ": ", strerror(errno)));
  std::array<void*, 4> frames{};
  backtrace(frames.data(), static_cast<int>(frames.size()));
  const int before = file.exchange(opened);
  if (before >= 0) close(before);
  install(threadSignal(), onTurn);
  install(SIGUSR2, onAsked);
}

}  // namespace goku
