// Memory that a kernel needs while it runs, and lets go before it returns.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace goku {

inline int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t roundUp(int64_t a, int64_t b) { return ceilDivide(a, b) * b; }

/// Floats taken piece by piece, contents undefined, each piece 64-byte aligned: Arena(Arena::room(100, 20))
/// has room for take(100) and take(20).
class Arena {
 public:
  explicit Arena(int64_t count) : memory_(allocate(count)), next_(memory_.get()) {}

  template <class... Counts>
  static int64_t room(Counts... counts) {
    return (roundUp(counts, kAlign) + ... + 0);
  }

  float* take(int64_t count) {
    float* piece = next_;
    next_ += roundUp(count, kAlign);
    return piece;
  }

 private:
  static constexpr int64_t kAlign = 16;
  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };
  static float* allocate(int64_t count) {
    void* memory = std::aligned_alloc(64, static_cast<size_t>(roundUp(count + 1, kAlign)) * sizeof(float));
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<float*>(memory);
  }

  std::unique_ptr<float, Free> memory_;
  float* next_;
};

}  // namespace goku
