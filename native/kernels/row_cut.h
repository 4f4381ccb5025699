// How rows of packed samples are cut into blocks, the same on every backend, and checks of tensors of rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "native/tensor.h"

namespace goku {

inline constexpr int64_t kRowsPerBlock = 32;

struct RowBlock {
  int64_t sample;
  int64_t first;  // row
  int64_t count;  // rows, 1 to kRowsPerBlock
};

struct RowBlocks {
  std::vector<RowBlock> blocks;
  std::vector<int64_t> starts;  // [S+1]: sample i owns blocks starts[i] .. starts[i+1]-1

  int64_t count() const { return static_cast<int64_t>(blocks.size()); }
};

/// offsets[S+1] as in worker/engine/native.ts.
inline RowBlocks cutRows(std::span<const int32_t> offsets) {
  RowBlocks cut;
  cut.starts.push_back(0);
  for (size_t i = 0; i + 1 < offsets.size(); i++) {
    for (int64_t row = offsets[i]; row < offsets[i + 1]; row += kRowsPerBlock) {
      cut.blocks.push_back(
          {static_cast<int64_t>(i), row, std::min<int64_t>(kRowsPerBlock, offsets[i + 1] - row)});
    }
    cut.starts.push_back(cut.count());
  }
  return cut;
}

/// One run of N rows.
inline RowBlocks cutRows(int64_t rows) {
  const int32_t offsets[] = {0, static_cast<int32_t>(rows)};
  return cutRows(offsets);
}

/// Throws NATIVE_ARGUMENT unless x holds `rows` rows of `columns` f32 or bf16 numbers.
inline void checkRows(const char* name, const char* what, const Tensor& x, int64_t rows, int64_t columns) {
  GOKU_CHECK(x.isFloat(), name, ": ", what, " is ", dtypeName(x.dtype), ", want f32 or bf16");
  GOKU_CHECK(x.count == rows * columns, name, ": ", what, " has ", x.count, " elements, want ", rows,
             " rows of ", columns);
}

/// The same for f32 only.
inline void checkFloatRows(const char* name, const char* what, const Tensor& x, int64_t rows,
                           int64_t columns) {
  GOKU_CHECK(x.dtype == DType::kF32, name, ": ", what, " is ", dtypeName(x.dtype), ", want f32");
  checkRows(name, what, x, rows, columns);
}

inline void checkColumn(const char* name, const char* what, int64_t column, int64_t D, int64_t modWidth) {
  GOKU_CHECK(column >= 0 && column + D <= modWidth, name, ": ", what, " is ", column, ", want at most ",
             modWidth - D, " (modWidth ", modWidth, " less D ", D, ")");
}

}  // namespace goku
