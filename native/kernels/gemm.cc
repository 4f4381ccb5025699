// Blocking (sizes in elements; the packed parts are always f32):
//   columns are taken kColumnsMax at a time; their part of B is packed once, by all threads, into panels of
//   kPanel columns: panel[k][kPanel]. Tasks then cover C with tiles of up to kRowBlock rows, K block after K
//   block; a panel block (up to 32 KiB) stays near while a task's rows of A (up to 288 KiB, second-level
//   cache) stream by. The innermost kernel keeps kTileRows x kPanel sums in registers.
#include "native/kernels/gemm.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

#include "native/kernels/activation.h"
#include "native/parallel.h"
#include "native/simd.h"

namespace goku {
namespace {

constexpr int64_t kPanel = 2 * kLanes;
constexpr int64_t kTileRows = kLanes == 16 ? 12 : 6;  // fills the 32 or 16 registers with sums
constexpr int64_t kRowBlock = 144;                    // a multiple of kTileRows
constexpr int64_t kDepthMax = 512;
constexpr int64_t kColumnsMax = 1024;

/// tile[Count][kPanel] = A[Count, depth] panel[depth, kPanel]. Packed: a[k][kTileRows]; else row i starts at
/// a + i * rowStride.
template <int Count, bool Packed>
void multiplyTile(int64_t depth, const float* a, int64_t rowStride, const float* panel, float* tile) {
  Vec sums[Count][2] = {};
  const float* row[Count];
#pragma GCC unroll 16
  for (int i = 0; i < Count; i++) row[i] = a + i * rowStride;
#pragma GCC unroll 4
  for (int64_t k = 0; k < depth; k++) {
    const Vec b0 = load(panel + k * kPanel), b1 = load(panel + k * kPanel + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < Count; i++) {
      const Vec ai = broadcast(Packed ? a[k * kTileRows + i] : row[i][k]);
      sums[i][0] = fma(ai, b0, sums[i][0]);
      sums[i][1] = fma(ai, b1, sums[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Count; i++) {
    store(tile + i * kPanel, sums[i][0]);
    store(tile + i * kPanel + kLanes, sums[i][1]);
  }
}

using TileKernel = void (*)(int64_t, const float*, int64_t, const float*, float*);
template <bool Packed, int... Counts>
constexpr auto tileKernels(std::integer_sequence<int, Counts...>) {
  return std::array<TileKernel, sizeof...(Counts)>{multiplyTile<Counts + 1, Packed>...};
}
/// By number of rows - 1.
constexpr auto kStridedKernels = tileKernels<false>(std::make_integer_sequence<int, kTileRows>{});
constexpr auto kPackedKernels = tileKernels<true>(std::make_integer_sequence<int, kTileRows>{});

/// The blocks K is cut into: a function of K alone, as even as can be.
struct DepthBlocks {
  int64_t count, size;
  explicit DepthBlocks(int64_t K)
      : count(std::max<int64_t>(1, (K + kDepthMax - 1) / kDepthMax)),
        size(((K + count - 1) / count + 7) / 8 * 8) {}
};

/// to[c * toStride + r] = from_r[c] for 8 rows r and 8 columns c.
inline void transpose8(const __m256 (&rows)[8], float* to, int64_t toStride) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    _mm256_storeu_ps(to + i * toStride, _mm256_permute2f128_ps(u[i], u[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * toStride, _mm256_permute2f128_ps(u[i], u[i + 4], 0x31));
  }
}

inline __m256 load8(const float* from) { return _mm256_loadu_ps(from); }
inline __m256 load8(const bf16* from) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/// to[k * width + i] = from[i * stride + k] for i < count <= width, k < depth; columns count .. width - 1
/// become 0.
template <class T>
void packTransposed(float* to, int64_t width, const T* from, int64_t stride, int64_t count, int64_t depth) {
  for (int64_t i = 0; i < width; i += 8) {
    const int64_t rows = std::clamp<int64_t>(count - i, 0, 8);
    int64_t k = 0;
    if (rows == 8) {
      for (; k + 8 <= depth; k += 8) {
        __m256 block[8];
        for (int64_t r = 0; r < 8; r++) block[r] = load8(from + (i + r) * stride + k);
        transpose8(block, to + k * width + i, width);
      }
    }
    for (; k < depth; k++) {
      for (int64_t r = 0; r < 8; r++)
        to[k * width + i + r] = r < rows ? toFloat(from[(i + r) * stride + k]) : 0.0f;
    }
  }
}

/// to[k * width + i] = from[k * stride + i] for i < count <= width; the rest 0.
template <class T>
void packStraight(float* to, int64_t width, const T* from, int64_t stride, int64_t count, int64_t depth) {
  for (int64_t k = 0; k < depth; k++) {
    float* row = to + k * width;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) _mm256_storeu_ps(row + i, load8(from + k * stride + i));
    for (; i < count; i++) row[i] = toFloat(from[k * stride + i]);
    for (; i < width; i++) row[i] = 0;
  }
}

/// One panel block of B: columns [column, column + count), depths [k, k + depth).
template <class T>
void packPanel(float* to, const MatrixView& b, int64_t column, int64_t count, int64_t k, int64_t depth) {
  const T* from = static_cast<const T*>(b.data) + k * b.rowStride + column * b.columnStride;
  if (b.columnStride == 1) {
    packStraight(to, kPanel, from, b.rowStride, count, depth);
  } else {
    packTransposed(to, kPanel, from, b.columnStride, count, depth);
  }
}

/// Tiles of kTileRows rows, each as to[tile][k][kTileRows], from rows that lie along `from`: row i at depth k
/// is from[k * stride + i]. Depth by depth, since neighbours along `from` share cache lines and pages.
template <class T>
void packTiles(float* to, const T* from, int64_t stride, int64_t count, int64_t depth) {
  constexpr int64_t kAhead = 8;  // depths; strides beyond a page hide them from the hardware's prefetcher
  constexpr int64_t kLine = 64 / sizeof(T);
  const int64_t fullRows = count / kTileRows * kTileRows;
  for (int64_t k = 0; k < depth; k++) {
    const T* row = from + k * stride;
    if (k + kAhead < depth) {
      for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(row + kAhead * stride + i);
    }
    float* tile = to + k * kTileRows;
    for (int64_t i = 0; i < fullRows; i += kTileRows) {
      if constexpr (std::is_same_v<T, float>) {
        std::memcpy(tile + i * depth, row + i, kTileRows * sizeof(float));
      } else {
        for (int64_t r = 0; r < kTileRows; r++) tile[i * depth + r] = toFloat(row[i + r]);
      }
    }
    for (int64_t i = fullRows; i < count; i++) tile[fullRows * depth + i - fullRows] = toFloat(row[i]);
  }
}

/// Rows of A for the tile kernels: the tile of rows i .. i + kTileRows - 1 starts at data + i * step.
struct RowBlock {
  const float* data;
  int64_t step;
  int64_t rowStride;  // 0: packed tiles
};

/// Rows [row, row + count) of A at depths [k, k + depth) as f32, in `buffer` unless they can be read in
/// place.
template <class T>
RowBlock packRows(float* buffer, const MatrixView& a, int64_t row, int64_t count, int64_t k, int64_t depth) {
  const T* from = static_cast<const T*>(a.data) + row * a.rowStride + k * a.columnStride;
  if (a.columnStride == 1) {
    if constexpr (std::is_same_v<T, float>) return {from, a.rowStride, a.rowStride};
    packStraight(buffer, depth, from, a.rowStride, depth, count);
    return {buffer, depth, depth};
  }
  packTiles(buffer, from, a.columnStride, count, depth);
  return {buffer, depth, 0};
}

class Multiplication {
 public:
  Multiplication(const Gemm& g, float* partial)
      : g_(g),
        depths_(g.K),
        plain_(!g.gelu && g.bias == nullptr && g.c.dtype == DType::kF32),
        partial_(partial) {}

  /// Whether sums between K blocks need memory of their own; f32 without anything to apply at the end keeps
  /// them in C.
  bool needsPartial() const { return depths_.count > 1 && !plain_; }
  const DepthBlocks& depths() const { return depths_; }

  /// Rows [row, row + rows) x columns [column, column + columns) of C, with B's columns from columnFirst on
  /// packed.
  void task(const float* packed, int64_t columnFirst, int64_t packedColumns, int64_t row, int64_t rows,
            int64_t column, int64_t columns, float* rowBuffer, int thread) const {
    for (int64_t block = 0; block < depths_.count; block++) {
      const int64_t k = block * depths_.size;
      const int64_t depth = std::clamp<int64_t>(g_.K - k, 0, depths_.size);
      const RowBlock a = g_.a.dtype == DType::kBf16 ? packRows<bf16>(rowBuffer, g_.a, row, rows, k, depth)
                                                    : packRows<float>(rowBuffer, g_.a, row, rows, k, depth);
      const auto& kernels = a.rowStride == 0 ? kPackedKernels : kStridedKernels;
      const float* panels = packed + k * packedColumns;
      for (int64_t j = column; j < column + columns; j += kPanel) {
        const float* panel = panels + (j - columnFirst) * depth;
        for (int64_t i = 0; i < rows; i += kTileRows) {
          const int64_t count = std::min(kTileRows, rows - i);
          prefetchRows(row + i, count, j);
          alignas(64) float tile[kTileRows * kPanel];
          kernels[static_cast<size_t>(count - 1)](depth, a.data + i * a.step, a.rowStride, panel, tile);
          float* partial = partial_ + (thread * kRowBlock + i) * kColumnsMax + (j - columnFirst);
          const TilePlace place{row + i, count, j, std::min(kPanel, g_.N - j), block, partial};
          if (g_.c.dtype == DType::kBf16) {
            finish<bf16>(tile, place);
          } else {
            finish<float>(tile, place);
          }
        }
      }
    }
  }

 private:
  struct TilePlace {
    int64_t row, rows, column, columns, block;
    float* partial;
  };

  /// Brings the lines of C that a tile will be added to while the tile is computed.
  void prefetchRows(int64_t row, int64_t rows, int64_t column) const {
    const auto bytes = static_cast<int64_t>(dtypeBytes(g_.c.dtype));
    char* at = static_cast<char*>(g_.c.data) + (row * g_.N + column) * bytes;
    for (int64_t i = 0; i < rows; i++) __builtin_prefetch(at + i * g_.N * bytes, 1);
  }

  /// Adds a tile to what earlier K blocks left, and applies what comes after the last one.
  template <class C>
  void finish(const float* tile, const TilePlace& place) const {
    if (place.columns == kPanel) {
      finishColumns<C>(tile, place, 0, kLanes);
      finishColumns<C>(tile, place, kLanes, kLanes);
    } else {
      finishColumns<C>(tile, place, 0, std::min(place.columns, kLanes));
      if (place.columns > kLanes) finishColumns<C>(tile, place, kLanes, place.columns - kLanes);
    }
  }

  /// The `lanes` columns of the tile from column j on.
  template <class C>
  void finishColumns(const float* tile, const TilePlace& place, int64_t j, int64_t lanes) const {
    C* c = static_cast<C*>(g_.c.data) + place.row * g_.N + place.column + j;
    const bool last = place.block == depths_.count - 1;
    const bool fromC = place.block > 0 ? plain_ : g_.accumulate;
    const bool fromPartial = place.block > 0 && !plain_;
    const bool applies = last && (g_.gelu || g_.bias != nullptr);
    for (int64_t i = 0; i < place.rows; i++) {
      Vec v = load(tile + i * kPanel + j);
      if (fromC) v = loadLanes(c + i * g_.N, lanes) + v;
      if (fromPartial) v = load(place.partial + i * kColumnsMax + j) + v;
      if (applies) v = apply(v, (place.row + i) * g_.N, place.column + j, lanes);
      if (last || plain_) {
        storeLanes(c + i * g_.N, v, lanes);
      } else {
        store(place.partial + i * kColumnsMax + j, v);
      }
    }
  }

  /// Bias and activation of the columns from `column` on of the row that starts at rowStart.
  Vec apply(Vec v, int64_t rowStart, int64_t column, int64_t lanes) const {
    if (g_.bias != nullptr) {
      v += g_.bias->dtype == DType::kBf16 ? loadLanes(g_.bias->as<bf16>() + column, lanes)
                                          : loadLanes(g_.bias->as<float>() + column, lanes);
    }
    if (!g_.gelu) return v;
    const int64_t index = rowStart + column;
    if (g_.preActivation.data != nullptr && g_.preActivation.dtype == DType::kF32) {
      storeLanes(static_cast<float*>(g_.preActivation.data) + index, v, lanes);
    } else if (g_.preActivation.data != nullptr) {
      // The backward pass sees the rounded value; so does the activation.
      bf16 rounded[kLanes];
      store(rounded, v);
      v = load(rounded);
      storeLanes(static_cast<bf16*>(g_.preActivation.data) + index, v, lanes);
    }
    return geluTanh(v);
  }

  const Gemm& g_;
  DepthBlocks depths_;
  bool plain_;
  float* partial_;
};

int64_t roundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// How tasks cut C; any cut gives the same bits. Columns are cut when there are few row blocks for the
/// threads.
struct TaskGrid {
  int64_t rowBlocks, columnParts, partColumns;
  TaskGrid(int64_t M, int64_t columns, int threads) : rowBlocks((M + kRowBlock - 1) / kRowBlock) {
    const int64_t panels = (columns + kPanel - 1) / kPanel;
    const int64_t wanted = threads == 1 ? 1 : std::max<int64_t>(1, (6 * threads + rowBlocks - 1) / rowBlocks);
    const int64_t partPanels = (panels + std::min(wanted, panels) - 1) / std::min(wanted, panels);
    partColumns = partPanels * kPanel;
    columnParts = (panels + partPanels - 1) / partPanels;
  }
  int64_t count() const { return rowBlocks * columnParts; }
};

}  // namespace

void gemm(const Gemm& g, Allocator& allocator) {
  if (g.M == 0 || g.N == 0) return;
  // A product this small is done before other threads have woken up.
  const bool small = static_cast<double>(g.M) * static_cast<double>(g.N) * static_cast<double>(g.K) < 65536;
  const int threads = small || omp_in_parallel() ? 1 : threadCount();
  const DepthBlocks depths(g.K);
  const int64_t columnsMax = std::min(kColumnsMax, roundUp(g.N, kPanel));
  const bool needsPartial = Multiplication(g, nullptr).needsPartial();
  const auto floats = [&](int64_t count) {
    return Scratch(allocator, static_cast<size_t>(count) * sizeof(float));
  };
  const Scratch packed = floats(columnsMax * depths.count * depths.size);
  const int64_t rowBuffer = kRowBlock * depths.size;
  const Scratch rowBuffers = floats(threads * rowBuffer);
  const Scratch partial = floats(needsPartial ? threads * kRowBlock * kColumnsMax : 0);
  const Multiplication multiplication(g, partial.floats());

  for (int64_t first = 0; first < g.N; first += kColumnsMax) {
    const int64_t columns = std::min(kColumnsMax, g.N - first);
    const int64_t panels = (columns + kPanel - 1) / kPanel;
    const int64_t packedColumns = panels * kPanel;
    const TaskGrid grid(g.M, columns, threads);
    const auto pack = [&](int64_t index) {
      const int64_t k = index / panels * depths.size, column = index % panels * kPanel;
      const int64_t depth = std::clamp<int64_t>(g.K - k, 0, depths.size);
      float* to = packed.floats() + k * packedColumns + column * depth;
      const int64_t count = std::min(kPanel, columns - column);
      if (g.b.dtype == DType::kBf16) {
        packPanel<bf16>(to, g.b, first + column, count, k, depth);
      } else {
        packPanel<float>(to, g.b, first + column, count, k, depth);
      }
    };
    const auto task = [&](int64_t index) {
      const int thread = threads == 1 ? 0 : omp_get_thread_num();
      const int64_t row = index / grid.columnParts * kRowBlock;
      const int64_t column = index % grid.columnParts * grid.partColumns;
      multiplication.task(packed.floats(), first, packedColumns, row, std::min(kRowBlock, g.M - row),
                          first + column, std::min(grid.partColumns, columns - column),
                          rowBuffers.floats() + thread * rowBuffer, thread);
    };
    if (threads == 1) {
      for (int64_t i = 0; i < panels * depths.count; i++) pack(i);
      for (int64_t i = 0; i < grid.count(); i++) task(i);
      continue;
    }
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < panels * depths.count; i++) pack(i);
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < grid.count(); i++) task(i);
    }
  }
}

}  // namespace goku
