// Copies for payloads larger than the caches. Collectives are bound by memory, so what counts is which of the
// two sides stays in the cache. Times: 64 MB among 4 ranks on 2 cores of a Zen 1.
#pragma once

#include <cstddef>

namespace goku::collectives {

/// The destination is not read again soon: written past the caches. A plain copy reads every destination line
/// first; 48 MB a rank took 15 ms instead of 25.
void copyAround(std::byte* to, const std::byte* from, size_t bytes);

/// The source is not read again, the destination is, at once and by another core: the source must not push it
/// out. All-reduce took 33 ms instead of 40, all-to-all 24 instead of 27.
void copyIntoCache(std::byte* to, const std::byte* from, size_t bytes);

}  // namespace goku::collectives
