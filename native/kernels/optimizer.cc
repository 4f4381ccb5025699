#include "native/kernels/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "native/checksum.h"
#include "native/copy_around.h"
#include "native/kernels/checks.h"
#include "native/parallel.h"
#include "native/reduce.h"
#include "native/simd.h"

namespace goku {
namespace {

/// The settings as vectors, each rounded to f32 once.
struct Factors {
  Vec beta1, beta1Rest, beta2, beta2Rest, correction1, correction2, lr, eps, decayed, gradScale, ema, emaRest;

  explicit Factors(const AdamwSettings& s)
      : beta1(of(s.beta1)),
        beta1Rest(of(1 - s.beta1)),
        beta2(of(s.beta2)),
        beta2Rest(of(1 - s.beta2)),
        correction1(of(1 - std::pow(s.beta1, static_cast<double>(s.step)))),
        correction2(of(1 - std::pow(s.beta2, static_cast<double>(s.step)))),
        lr(of(s.lr)),
        eps(of(s.eps)),
        decayed(of(1 - s.lr * s.weightDecay)),
        gradScale(of(s.gradScale)),
        ema(of(s.emaDecay)),
        emaRest(of(1 - s.emaDecay)) {}

 private:
  static Vec of(double x) { return broadcast(static_cast<float>(x)); }
};

/// The four runs of a state from some element on.
struct Runs {
  float *master, *m, *v, *ema;
  explicit Runs(const AdamwState& s)
      : master(s.master.as<float>()), m(s.m.as<float>()), v(s.v.as<float>()), ema(s.ema.as<float>()) {}
  Runs(float* buffer, int64_t count)
      : master(buffer), m(buffer + count), v(buffer + 2 * count), ema(buffer + 3 * count) {}
  Runs from(int64_t element) const {
    Runs runs = *this;
    for (float** run : {&runs.master, &runs.m, &runs.v, &runs.ema}) *run += element;
    return runs;
  }
};

template <class W>
void adamwBlock(const Runs& to, const Runs& from, const float* grad, W* weights, Vec keep, const Factors& f,
                int64_t count) {
  forLanes(count, [&](int64_t i, int64_t lanes) {
    const Vec g = loadLanes(grad + i, lanes) * f.gradScale;
    const Vec mean = fma(f.beta1Rest, g, loadLanes(from.m + i, lanes) * f.beta1);
    const Vec square = fma(f.beta2Rest, g * g, loadLanes(from.v + i, lanes) * f.beta2);
    const Vec update = f.lr * (mean / f.correction1) / (sqrt(square / f.correction2) + f.eps);
    const Vec weight = loadLanes(from.master + i, lanes) * keep - update;
    const Vec average = fma(f.emaRest, weight, loadLanes(from.ema + i, lanes) * f.ema);
    storeLanes(to.m + i, mean, lanes);
    storeLanes(to.v + i, square, lanes);
    storeLanes(to.master + i, weight, lanes);
    storeLanes(to.ema + i, average, lanes);
    if (weights != nullptr) storeLanes(weights + i, weight, lanes);
  });
}

constexpr int64_t kChunk = kChecksumBytes / sizeof(float);
// Elements that are computed, summed and copied while they are in the cache: 64 KiB of state.
constexpr int64_t kPiece = 4096;
static_assert(kChunk % kPiece == 0);

/// Runs of elements that decay or not, in order.
class Segments {
 public:
  Segments(std::span<const double> triples, int64_t count) : triples_(triples) {
    checks::segments(triples, count);
  }

  /// Calls body(begin, end, decays) for the parts of [begin, end).
  template <class Body>
  void visit(int64_t begin, int64_t end, const Body& body) const {
    // The segment that holds `begin`: the last one that starts there or before.
    size_t low = 0, high = triples_.size() / 3;
    while (high - low > 1) {
      const size_t middle = (low + high) / 2;
      (triples_[3 * middle] <= static_cast<double>(begin) ? low : high) = middle;
    }
    for (; begin < end; ++low) {
      const auto stop = static_cast<int64_t>(triples_[3 * low] + triples_[3 * low + 1]);
      const int64_t until = std::min(end, stop);
      if (until > begin) body(begin, until, triples_[3 * low + 2] != 0);
      begin = std::max(begin, until);
    }
  }

 private:
  std::span<const double> triples_;
};

// A state from this size on has left the caches before the next step's optimizer reads it.
constexpr int64_t kAroundBytes = 4 << 20;

/// to = from. `around`: past the caches; plain stores would read every line first.
void copyState(const Runs& to, const Runs& from, int64_t count, bool around) {
  const auto bytes = static_cast<size_t>(count) * sizeof(float);
  const auto copy = [&](float* into, const float* source) {
    around ? copyAround(into, source, bytes) : static_cast<void>(std::memcpy(into, source, bytes));
  };
  copy(to.master, from.master), copy(to.m, from.m), copy(to.v, from.v), copy(to.ema, from.ema);
}

}  // namespace

void adamwStep(const AdamwState& from, const AdamwState& to, const Tensor& grad, const Tensor* weights,
               std::span<const double> segments, const AdamwSettings& settings,
               std::span<uint32_t> checksums) {
  const int64_t count = from.master.count;
  checks::adamw(from, to, grad, weights, settings, checksums);
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  const Factors factors(settings);
  const Vec one = broadcast(1.0f);
  const Segments decay(segments, count);
  const Runs source(from), target(to);
  const bool inPlace = source.master == target.master;
  const bool around = count * 4 * static_cast<int64_t>(sizeof(float)) >= kAroundBytes;
  visitFloat(weights == nullptr ? DType::kF32 : weights->dtype, "adamwStep: weights", [&](auto tag) {
    using W = decltype(tag);
    W* rounded = weights == nullptr ? nullptr : weights->as<W>();
    const auto piece = [&](int64_t begin, int64_t end, uint32_t* sums) {
      alignas(64) float buffer[4 * kPiece];
      const Runs made = inPlace ? target.from(begin) : Runs(buffer, kPiece);
      decay.visit(begin, end, [&](int64_t first, int64_t last, bool decays) {
        adamwBlock(made.from(first - begin), source.from(first), grad.as<float>() + first,
                   rounded == nullptr ? nullptr : rounded + first, decays ? factors.decayed : one, factors,
                   last - first);
      });
      const auto bytes = static_cast<size_t>(end - begin) * sizeof(float);
      if (sums != nullptr) {
        size_t kind = 0;
        for (const float* run : {made.master, made.ema, made.m, made.v}) {
          sums[kind] = crc32(sums[kind], run, bytes);
          ++kind;
        }
      }
      if (!inPlace) copyState(target.from(begin), made, end - begin, around);
    };
    // Checksums go over a chunk in order; without them a block may be smaller.
    const int64_t block = checksums.empty() ? 4 * kPiece : kChunk;
    parallelFor(count, block, [&](int64_t begin, int64_t end) {
      uint32_t sums[4] = {};
      for (int64_t at = begin; at < end; at += kPiece)
        piece(at, std::min(end, at + kPiece), checksums.empty() ? nullptr : sums);
      if (checksums.empty()) return;
      for (int64_t kind = 0; kind < 4; kind++)
        checksums[static_cast<size_t>(kind * chunks + begin / kChunk)] = sums[kind];
    });
  });
}

void tensorChecksums(const Tensor& x, std::span<uint32_t> checksums) {
  const auto bytes = static_cast<int64_t>(x.bytes());
  constexpr auto kBytes = static_cast<int64_t>(kChecksumBytes);
  const int64_t chunks = checksumsOf(bytes);
  GOKU_CHECK(static_cast<int64_t>(checksums.size()) == chunks, "tensorChecksums: room for ", checksums.size(),
             ", want ", chunks);
  parallelFor(bytes, kBytes, [&](int64_t begin, int64_t end) {
    checksums[static_cast<size_t>(begin / kBytes)] =
        crc32(0, x.data + begin, static_cast<size_t>(end - begin));
  });
}

double sumSquares(const Tensor& x, int64_t start, int64_t count) {
  checks::range("sumSquares", x, start, count);
  return visitFloat(x.dtype, "sumSquares: x", [&](auto tag) {
    const auto* from = x.as<decltype(tag)>() + start;
    return parallelSum(count, kElementBlock, [&](int64_t begin, int64_t end) {
      SquareSum squares;
      forLanes(end - begin,
               [&](int64_t i, int64_t lanes) { squares.add(loadLanes(from + begin + i, lanes)); });
      return squares.total();
    });
  });
}

}  // namespace goku
