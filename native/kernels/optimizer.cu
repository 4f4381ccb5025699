// The optimizer's step on flat f32 runs, sums of squares and checksums (optimizer.h gives the equations).
//
// An element's new state depends on its own numbers only: a thread takes eight.
#include <cmath>
#include <vector>

#include "native/cuda/checksums.h"
#include "native/cuda/elements.h"
#include "native/kernels/checks.h"
#include "native/kernels/optimizer.h"

namespace goku {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSumChunk = 16384;

/// The settings, each rounded to f32 once.
struct Factors {
  float beta1, beta1Rest, beta2, beta2Rest, correction1, correction2, lr, eps, decayed, gradScale, ema,
      emaRest;

  explicit Factors(const AdamwSettings& s)
      : beta1(static_cast<float>(s.beta1)),
        beta1Rest(static_cast<float>(1 - s.beta1)),
        beta2(static_cast<float>(s.beta2)),
        beta2Rest(static_cast<float>(1 - s.beta2)),
        correction1(static_cast<float>(1 - std::pow(s.beta1, static_cast<double>(s.step)))),
        correction2(static_cast<float>(1 - std::pow(s.beta2, static_cast<double>(s.step)))),
        lr(static_cast<float>(s.lr)),
        eps(static_cast<float>(s.eps)),
        decayed(static_cast<float>(1 - s.lr * s.weightDecay)),
        gradScale(static_cast<float>(s.gradScale)),
        ema(static_cast<float>(s.emaDecay)),
        emaRest(static_cast<float>(1 - s.emaDecay)) {}
};

/// The four runs of a state.
struct Runs {
  Out master, m, v, ema;
  explicit Runs(const AdamwState& s) : master(s.master), m(s.m), v(s.v), ema(s.ema) {}
};

/// Which elements decay: starts[count + 1], decays[count].
struct Segments {
  const int64_t* starts;
  const uint8_t* decays;
  int64_t count;
};

__global__ void __launch_bounds__(kThreads)
    adamwKernel(Runs to, Runs from, In grad, Out weights, Segments segments, Factors f, int64_t count) {
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kEight;
  if (i >= count) return;
  float g[kEight], mean[kEight], square[kEight], weight[kEight], average[kEight];
  grad.load(i, count, g);
  from.m.read().load(i, count, mean);
  from.v.read().load(i, count, square);
  from.master.read().load(i, count, weight);
  from.ema.read().load(i, count, average);
  int64_t segment = runOf(segments.starts, segments.count, i);
  for (int j = 0; j < kEight && i + j < count; j++) {
    while (i + j >= segments.starts[segment + 1]) segment++;
    const float keep = segments.decays[segment] != 0 ? f.decayed : 1.0f;
    const float scaled = g[j] * f.gradScale;
    mean[j] = fmaf(f.beta1Rest, scaled, mean[j] * f.beta1);
    square[j] = fmaf(f.beta2Rest, scaled * scaled, square[j] * f.beta2);
    const float update = f.lr * (mean[j] / f.correction1) / (sqrtf(square[j] / f.correction2) + f.eps);
    weight[j] = weight[j] * keep - update;
    average[j] = fmaf(f.emaRest, weight[j], average[j] * f.ema);
  }
  to.m.store(i, count, mean);
  to.v.store(i, count, square);
  to.master.store(i, count, weight);
  to.ema.store(i, count, average);
  if (weights.data != nullptr) weights.store(i, count, weight);
}

/// partial[chunk] = sum of squares of kSumChunk elements, in f64.
__global__ void __launch_bounds__(kThreads)
    squaresKernel(double* partial, In x, int64_t start, int64_t count) {
  const int64_t begin = start + int64_t{blockIdx.x} * kSumChunk;
  const int64_t end = begin + kSumChunk < start + count ? begin + kSumChunk : start + count;
  float numbers[kEight];
  double total[1] = {0};
  for (int64_t i = begin + threadIdx.x * kEight; i < end; i += kThreads * kEight) {
    x.load(i, end, numbers);
    for (int j = 0; j < kEight; j++)
      total[0] += static_cast<double>(numbers[j]) * static_cast<double>(numbers[j]);
  }
  blockSum(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = total[0];
}

}  // namespace

void adamwStep(const AdamwState& from, const AdamwState& to, const Tensor& grad, const Tensor* weights,
               std::span<const double> segments, const AdamwSettings& settings,
               std::span<uint32_t> checksums) {
  const int64_t count = from.master.count;
  checks::adamw(from, to, grad, weights, settings, checksums);
  checks::segments(segments, count);
  GOKU_CHECK(weights == nullptr || weights->isFloat(), "adamwStep: weights is ", dtypeName(weights->dtype),
             ", want f32 or bf16");
  if (count == 0) return;
  std::vector<int64_t> starts{0};
  std::vector<uint8_t> decays;
  for (size_t i = 0; i < segments.size(); i += 3) {
    starts.push_back(starts.back() + static_cast<int64_t>(segments[i + 1]));
    decays.push_back(segments[i + 2] != 0);
  }
  const Uploaded<int64_t> uploadedStarts{std::span<const int64_t>(starts)};
  const Uploaded<uint8_t> uploadedDecays{std::span<const uint8_t>(decays)};
  launch(adamwKernel, "adamwStep", {ceilDivide(count, kThreads * kEight), kThreads}, Runs(to), Runs(from),
         In(grad), weights == nullptr ? Out() : Out(*weights),
         Segments{uploadedStarts.data(), uploadedDecays.data(), static_cast<int64_t>(decays.size())},
         Factors(settings), count);
  if (checksums.empty()) return;
  const size_t chunks = checksums.size() / 4;
  size_t first = 0;
  for (const Tensor* run : {&to.master, &to.ema, &to.m, &to.v}) {
    tensorChecksums(*run, checksums.subspan(first, chunks));
    first += chunks;
  }
}

void tensorChecksums(const Tensor& x, std::span<uint32_t> checksums) {
  const int64_t chunks = checksumsOf(static_cast<int64_t>(x.bytes()));
  GOKU_CHECK(static_cast<int64_t>(checksums.size()) == chunks, "tensorChecksums: room for ", checksums.size(),
             ", want ", chunks);
  const DeviceScratch sums(checksums.size_bytes());
  checksumChunks(sums.as<uint32_t>(), x.as<uint8_t>(), static_cast<int64_t>(x.bytes()), computeStream());
  sums.read(checksums.data(), checksums.size_bytes());
}

double sumSquares(const Tensor& x, int64_t start, int64_t count) {
  checks::range("sumSquares", x, start, count);
  GOKU_CHECK(x.isFloat(), "sumSquares: x is ", dtypeName(x.dtype), ", want f32 or bf16");
  std::vector<double> partial(static_cast<size_t>(ceilDivide(count, kSumChunk)));
  const DeviceScratch sums(partial.size() * sizeof(double));
  launch(squaresKernel, "sumSquares", {static_cast<int64_t>(partial.size()), kThreads}, sums.as<double>(),
         In(x), start, count);
  sums.read(partial.data(), partial.size() * sizeof(double));
  double sum = 0;
  for (const double part : partial) sum += part;
  return sum;
}

}  // namespace goku
