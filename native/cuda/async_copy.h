// Copies from device memory to shared memory that go on while their thread computes: cp.async (sm_80 and
// newer).
//
// A thread begins copies, closes them to a group with commitCopies(), and waits with waitCopies<n>() until no
// more than its n newest groups are on their way. From then on it sees what it copied itself; other threads
// of the block do after a barrier that follows. Until then nobody may read or write what a copy goes to.
#pragma once

#include <cstddef>

#include "native/cuda/device.h"

namespace goku {

/// Begins to copy kBytes (4 or 16; both addresses are multiples of that) from `from`, which need not be
/// readable where `real` is false: then zeros go there.
template <int kBytes>
__device__ inline void copyAsync(void* shared, const void* from, bool real) {
  static_assert(kBytes == 4 || kBytes == 16);
#if defined(GOKU_EMULATED_DEVICE)
  emulated::beginCopy(shared, real ? from : nullptr, kBytes);
#else
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = real ? kBytes : 0;
  if constexpr (kBytes == 16)  // past the first-level cache: no other block of the processor wants the same
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(bytes)
                 : "memory");
#endif
}

__device__ inline void commitCopies() {
#if defined(GOKU_EMULATED_DEVICE)
  emulated::commitCopies();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

template <int kGroups>
__device__ inline void waitCopies() {
#if defined(GOKU_EMULATED_DEVICE)
  emulated::waitCopies(kGroups);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kGroups) : "memory");
#endif
}

}  // namespace goku
