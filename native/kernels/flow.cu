// The rectified-flow objective and its sampler (arXiv:2502.04896, section 2.3):
//   xt = t data + (1 - t) noise,  target = data - noise,  loss = sum_i weight_i sum_{rows of i} (v -
//   target)^2
// N tokens of all samples one after another, P numbers a token, S samples.
// A sample's numbers are cut into chunks that a block takes each: its t and its weight are the block's. Sums
// run in f64 inside a chunk, then over the chunks on the host, in order.
#include <cmath>
#include <vector>

#include "native/cuda/elements.h"
#include "native/kernels/checks.h"
#include "native/kernels/flow.h"

namespace goku {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8192;

/// Where a sample's numbers begin, and its chunks.
struct ChunksView {
  const int64_t* starts;  // [samples + 1] numbers
  const int64_t* chunks;  // [samples + 1] chunks
  int64_t samples;
};
struct Chunk {
  int64_t sample, begin, end;
};

__device__ inline Chunk chunkAt(const ChunksView& view, int64_t chunk) {
  const int64_t sample = runOf(view.chunks, view.samples, chunk);
  const int64_t begin = view.starts[sample] + (chunk - view.chunks[sample]) * kChunk;
  const int64_t end = view.starts[sample + 1];
  return {sample, begin, begin + kChunk < end ? begin + kChunk : end};
}

class Chunks {
 public:
  Chunks(Offsets offsets, int64_t P) : starts_(cut(offsets, P, false)), chunks_(cut(offsets, P, true)) {}

  int64_t count() const { return chunks_.back(); }
  int64_t first(size_t sample) const { return chunks_[sample]; }
  ChunksView view() const { return {starts.data(), chunks.data(), static_cast<int64_t>(starts_.size()) - 1}; }

 private:
  static std::vector<int64_t> cut(Offsets offsets, int64_t P, bool chunks) {
    std::vector<int64_t> list{0};
    for (size_t s = 0; s + 1 < offsets.size(); s++) {
      const int64_t numbers = (offsets[s + 1] - offsets[s]) * P;
      list.push_back(list.back() + (chunks ? ceilDivide(numbers, kChunk) : numbers));
    }
    return list;
  }
  std::vector<int64_t> starts_, chunks_;
  Uploaded<int64_t> starts{std::span<const int64_t>(starts_)}, chunks{std::span<const int64_t>(chunks_)};
};

__global__ void sinusoidKernel(float* out_SW, const float* t_S, int64_t samples, int64_t half) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= samples * half) return;
  const int64_t s = i / half, j = i % half;
  const double frequency = exp(-log(10000.0) * static_cast<double>(j) / static_cast<double>(half));
  const double angle = 1000.0 * static_cast<double>(t_S[s]) * frequency;
  out_SW[s * 2 * half + j] = static_cast<float>(cos(angle));
  out_SW[s * 2 * half + half + j] = static_cast<float>(sin(angle));
}

__global__ void pathKernel(Out xt, Out target, In data, In noise, const float* t_S, ChunksView chunks) {
  const Chunk chunk = chunkAt(chunks, blockIdx.x);
  const float toData = t_S[chunk.sample], toNoise = 1.0f - toData;
  float x1[kEight], x0[kEight];
  for (int64_t i = chunk.begin + threadIdx.x * kEight; i < chunk.end; i += kThreads * kEight) {
    data.load(i, chunk.end, x1);
    noise.load(i, chunk.end, x0);
    for (int j = 0; j < kEight; j++) {
      const float difference = x1[j] - x0[j];
      x1[j] = toData * x1[j] + toNoise * x0[j];
      x0[j] = difference;
    }
    xt.store(i, chunk.end, x1);
    target.store(i, chunk.end, x0);
  }
}

/// partial[chunk] = sum of (v - target)^2; dv (data null: not wanted) = scale_s (v - target).
__global__ void lossKernel(double* partial, Out dv, In v, In target, const float* scale_S,
                           ChunksView chunks) {
  const Chunk chunk = chunkAt(chunks, blockIdx.x);
  const float scale = scale_S[chunk.sample];
  float x[kEight], u[kEight];
  double total[1] = {0};
  for (int64_t i = chunk.begin + threadIdx.x * kEight; i < chunk.end; i += kThreads * kEight) {
    v.load(i, chunk.end, x);
    target.load(i, chunk.end, u);
    for (int j = 0; j < kEight; j++) {
      const float difference = x[j] - u[j];
      total[0] += static_cast<double>(difference) * static_cast<double>(difference);
      x[j] = scale * difference;
    }
    if (dv.data != nullptr) dv.store(i, chunk.end, x);
  }
  blockSum(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = total[0];
}

__global__ void eulerKernel(Out x, In v1, In v0, float guidance, float dt, int64_t count) {
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kEight;
  if (i >= count) return;
  float at[kEight], with[kEight], without[kEight];
  x.read().load(i, count, at);
  v1.load(i, count, with);
  if (v0.data != nullptr) v0.load(i, count, without);
  for (int j = 0; j < kEight; j++) {
    const float velocity = v0.data == nullptr ? with[j] : without[j] + guidance * (with[j] - without[j]);
    at[j] = at[j] + dt * velocity;
  }
  x.store(i, count, at);
}

void wantFloat(const char* what, const Tensor& x) {
  GOKU_CHECK(x.isFloat(), what, " is ", dtypeName(x.dtype), ", want f32 or bf16");
}

}  // namespace

void timestepSinusoid(const Tensor& out, const Tensor& t, int64_t width) {
  GOKU_CHECK(width >= 2 && width % 2 == 0, "timestepSinusoid: width ", width, ", want an even one");
  GOKU_CHECK(out.count == t.count * width, "timestepSinusoid: out has ", out.count, " elements, want ",
             t.count * width);
  launch(sinusoidKernel, "timestepSinusoid", {ceilDivide(t.count * (width / 2), kThreads), kThreads},
         out.as<float>(), t.as<float>(), t.count, width / 2);
}

void flowPath(const Tensor& xt, const Tensor& target, const Tensor& data, const Tensor& noise,
              const Tensor& t, Offsets offsets, int64_t P) {
  for (const Tensor* x : {&xt, &target, &data, &noise}) checks::packed("flowPath", offsets, P, *x);
  const int64_t samples = checks::samplesOf(offsets);
  GOKU_CHECK(t.count == samples, "flowPath: t has ", t.count, " elements, want ", samples);
  wantFloat("flowPath: xt", xt);
  const Chunks chunks(offsets, P);
  launch(pathKernel, "flowPath", {chunks.count(), kThreads}, Out(xt), Out(target), In(data), In(noise),
         t.as<float>(), chunks.view());
}

double flowLoss(const Tensor* dv, const Tensor& v, const Tensor& target, std::span<const double> weights,
                std::span<double> perSample, Offsets offsets, int64_t P) {
  checks::packed("flowLoss: v", offsets, P, v);
  checks::packed("flowLoss: target", offsets, P, target);
  if (dv != nullptr) checks::packed("flowLoss: dv", offsets, P, *dv);
  const size_t samples = offsets.size() - 1;
  GOKU_CHECK(weights.size() == samples && perSample.size() == samples, "flowLoss: ", weights.size(),
             " weights and ", perSample.size(), " places, want ", samples);
  wantFloat("flowLoss: v", v);
  if (dv != nullptr) wantFloat("flowLoss: dv", *dv);
  const Chunks chunks(offsets, P);
  std::vector<float> scales;
  for (const double weight : weights) scales.push_back(static_cast<float>(2 * weight));
  const Uploaded<float> scale{std::span<const float>(scales)};
  const DeviceScratch sums(static_cast<size_t>(chunks.count()) * sizeof(double));
  launch(lossKernel, "flowLoss", {chunks.count(), kThreads}, sums.as<double>(),
         dv == nullptr ? Out() : Out(*dv), In(v), In(target), scale.data(), chunks.view());
  std::vector<double> partial(static_cast<size_t>(chunks.count()));
  sums.read(partial.data(), partial.size() * sizeof(double));
  double loss = 0;
  for (size_t s = 0; s < samples; s++) {
    double sum = 0;
    for (int64_t c = chunks.first(s); c < chunks.first(s + 1); c++) sum += partial[static_cast<size_t>(c)];
    perSample[s] = weights[s] * sum;
    loss += perSample[s];
  }
  return loss;
}

void eulerUpdate(const Tensor& x, const Tensor& v1, const Tensor* v0, double guidance, double dt) {
  GOKU_CHECK(x.count == v1.count && (v0 == nullptr || v0->count == x.count),
             "eulerUpdate: tensors of different counts, want ", x.count, " each");
  GOKU_CHECK(v0 == nullptr || v0->dtype == v1.dtype, "eulerUpdate: v0 is ", dtypeName(v0->dtype), ", v1 ",
             dtypeName(v1.dtype), ", want the same");
  wantFloat("eulerUpdate: v1", v1);
  launch(eulerKernel, "eulerUpdate", {ceilDivide(x.count, kThreads * kEight), kThreads}, Out(x), In(v1),
         v0 == nullptr ? In() : In(*v0), static_cast<float>(guidance), static_cast<float>(dt), x.count);
}

}  // namespace goku
