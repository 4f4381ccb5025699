// CRC-32 as gzip and zlib compute it (reflected, polynomial 0x04c11db7), in parts that are joined: for
//   crc(A B) = crc(A) x^(8 |B|) + crc(B)  modulo the polynomial, over GF(2).
#pragma once

#include <cstdint>

#include "native/bf16.h"

namespace goku {

/// The table of one byte: shifted out of the register, what it leaves there.
GOKU_HD inline uint32_t crcOfByte(uint32_t byte) {
  for (int bit = 0; bit < 8; bit++) byte = (byte >> 1) ^ (byte % 2 != 0 ? 0xedb88320u : 0u);
  return byte;
}

/// a b modulo the polynomial. In this reflected form bit 31 is x^0.
GOKU_HD inline uint32_t crcMultiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = uint32_t{1} << 31; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ (b % 2 != 0 ? 0xedb88320u : 0u);
  }
  return product;
}

/// The checksum of two parts one after another, from theirs; the second has `bytes` bytes.
GOKU_HD inline uint32_t crcJoin(uint32_t first, uint32_t second, uint64_t bytes) {
  uint32_t shift = uint32_t{1} << 31, power = uint32_t{1} << 23;  // 1, and x^8
  for (; bytes != 0; bytes >>= 1) {
    if (bytes % 2 != 0) shift = crcMultiply(shift, power);
    power = crcMultiply(power, power);
  }
  return crcMultiply(first, shift) ^ second;
}

}  // namespace goku
