#include "native/collectives/copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace goku::collectives {
namespace {

[[maybe_unused]] constexpr size_t kLine = 64;

}  // namespace

void copyAround(std::byte* to, const std::byte* from, size_t bytes) {
#if defined(__SSE2__)
  const size_t head = std::min(bytes, (kLine - reinterpret_cast<uintptr_t>(to) % kLine) % kLine);
  std::memcpy(to, from, head);
  to += head, from += head, bytes -= head;
  for (; bytes >= kLine; to += kLine, from += kLine, bytes -= kLine) {
    for (size_t i = 0; i < kLine; i += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
    }
  }
  _mm_sfence();  // these stores are ordered with nothing else
#endif
  std::memcpy(to, from, bytes);
}

}  // namespace goku::collectives
