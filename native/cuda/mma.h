// Products of small bf16 matrices by a warp, f32 sums: mma.sync m16n8k16 and what feeds it (sm_80 and newer).
//
// Fragments, for lane = 4 g + t (PTX ISA, "Matrix fragments for mma.m16n8k16"): a word holds two bf16, the
// first lower.
//
//   A [16 rows, 16]: a[0] row g, columns 2t, 2t+1; a[1] row g+8; a[2], a[3]: the same of columns 2t+8, 2t+9
//   B [16, 8 columns]: b[0] rows 2t, 2t+1 of column g; b[1] rows 2t+8, 2t+9
//   C [16 rows, 8]: c[0], c[1] row g, columns 2t, 2t+1; c[2], c[3] row g+8
//
// Every lane of the warp calls these together. The emulated device computes them from the same table of
// places.
#pragma once

#include <cstdint>

#include "native/cuda/elements.h"

namespace goku {

__device__ inline int laneGroup() { return static_cast<int>(threadIdx.x) % 32 / 4; }
__device__ inline int laneInGroup() { return static_cast<int>(threadIdx.x) % 4; }

/// c += A B.
__device__ inline void multiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(GOKU_EMULATED_DEVICE)
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const emulated::WarpWords& words = emulated::exchange(mine);
  const int g = laneGroup(), t = laneInGroup();
  // Elements 2i, 2i + 1, 2i + 8 and 2i + 9 of a row or column, of the two words that lane i of its group has.
  const auto unpack = [&](float(&to)[16], int group, int low, int high) {
    for (int i = 0; i < 4; i++) {
      const uint32_t* lane = words[4 * group + i];
      to[2 * i] = __builtin_bit_cast(float, lane[low] << 16);
      to[2 * i + 1] = __builtin_bit_cast(float, lane[low] & 0xffff0000u);
      to[2 * i + 8] = __builtin_bit_cast(float, lane[high] << 16);
      to[2 * i + 9] = __builtin_bit_cast(float, lane[high] & 0xffff0000u);
    }
  };
  float rows[2][16], columns[2][16];
  for (int half = 0; half < 2; half++) {
    unpack(rows[half], g, half, half + 2);
    unpack(columns[half], 2 * t + half, 4, 5);
  }
  for (int i = 0; i < 4; i++)
    for (int k = 0; k < 16; k++) c[i] += rows[i / 2][k] * columns[i % 2][k];
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// Four 8 x 8 matrices of bf16 from shared memory: `row` is 16 bytes, row lane % 8 of matrix lane / 8, at a
/// multiple of 16. to[m]: row g, columns 2t and 2t+1 of matrix m.
__device__ inline void loadMatrices(uint32_t (&to)[4], const bf16* row) {
#if defined(GOKU_EMULATED_DEVICE)
  const uint64_t address = reinterpret_cast<uint64_t>(row);
  const uint32_t mine[2] = {static_cast<uint32_t>(address), static_cast<uint32_t>(address >> 32)};
  const emulated::WarpWords& words = emulated::exchange(mine);
  for (int m = 0; m < 4; m++) {
    const uint32_t* place = words[8 * m + laneGroup()];
    to[m] = reinterpret_cast<const uint32_t*>(uint64_t{place[1]} << 32 | place[0])[laneInGroup()];
  }
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

/// The same of the transposes: to[m]: rows 2t and 2t+1, column g of matrix m.
__device__ inline void loadTransposed(uint32_t (&to)[4], const bf16* row) {
#if defined(GOKU_EMULATED_DEVICE)
  const uint64_t address = reinterpret_cast<uint64_t>(row);
  const uint32_t mine[2] = {static_cast<uint32_t>(address), static_cast<uint32_t>(address >> 32)};
  const emulated::WarpWords& words = emulated::exchange(mine);
  const auto at = [&](int m, int r) {
    const uint32_t* place = words[8 * m + r];
    return uint32_t{reinterpret_cast<const bf16*>(uint64_t{place[1]} << 32 | place[0])[laneGroup()].bits};
  };
  for (int m = 0; m < 4; m++) to[m] = at(m, 2 * laneInGroup()) | at(m, 2 * laneInGroup() + 1) << 16;
#else
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

}  // namespace goku
