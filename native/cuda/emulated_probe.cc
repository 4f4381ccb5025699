// Kernels with known faults, for the test of the emulated device: it must show them.
#include "native/binding/call.h"
#include "native/cuda/async_copy.h"

namespace goku {
namespace {

constexpr int kThreads = 64;
constexpr int kBlocks = 2;  // one whose threads run forwards, one backwards

/// out[t] = what thread t - 1 has put into shared memory, and one more.
void neighbourKernel(float* out, bool barrier) {
  __shared__ float shared[kThreads];
  const unsigned t = threadIdx.x;
  shared[t] = -1;
  __syncthreads();
  shared[t] = static_cast<float>(t);
  if (barrier) __syncthreads();
  out[blockIdx.x * kThreads + t] = shared[(t + kThreads - 1) % kThreads] + 1;
}

/// out[t] = what thread t - 1 has copied, and one more; -1 where a second copy is there without a wait for
/// it.
void copyKernel(float* out, const float* from, bool wait, bool barrier) {
  __shared__ float shared[2][kThreads];
  const unsigned t = threadIdx.x, neighbour = (t + kThreads - 1) % kThreads;
  copyAsync<4>(&shared[0][t], from + t, true);
  commitCopies();
  copyAsync<4>(&shared[1][t], from + t, true);
  commitCopies();
  if (wait) waitCopies<1>();
  if (barrier) __syncthreads();
  // Lanes meet between the wait and the read, as before a product.
  __syncwarp();
  const bool early = shared[1][t] == shared[1][t];  // not NaN: not waited for, and yet there
  out[blockIdx.x * kThreads + t] = early ? -1 : shared[0][neighbour] + 1;
}

void divergentKernel() {
  if (threadIdx.x < kThreads / 2) __syncthreads();
}

void laneSumKernel(float* out) {
  float sum = static_cast<float>(threadIdx.x);
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

/// Numbers of kBlocks x kThreads that the kernel got wrong.
template <class Kernel, class Wanted>
double wrong(const Kernel& kernel, const Wanted& wanted) {
  const DeviceScratch out(kBlocks * kThreads * sizeof(float));
  emulated::run(kBlocks, kThreads, 0, [&] { kernel(out.as<float>()); });
  float found[kBlocks * kThreads];
  out.read(found, sizeof found);
  double count = 0;
  for (int i = 0; i < kBlocks * kThreads; i++) count += found[i] != wanted(i % kThreads) ? 1 : 0;
  return count;
}

double wrongCopies(bool wait, bool barrier) {
  const DeviceScratch from(kThreads * sizeof(float));
  emulated::run(1, kThreads, 0, [&] { from.as<float>()[threadIdx.x] = static_cast<float>(threadIdx.x); });
  return wrong([&](float* out) { copyKernel(out, from.as<float>(), wait, barrier); },
               [](int t) { return static_cast<float>((t + kThreads - 1) % kThreads + 1); });
}

void probe(Call& call) {
  const std::string kind = call.string(0);
  const auto neighbour = [](int t) { return static_cast<float>((t + kThreads - 1) % kThreads + 1); };
  if (kind == "barrier") {
    call.returns(wrong([](float* out) { neighbourKernel(out, true); }, neighbour));
  } else if (kind == "missing barrier") {
    call.returns(wrong([](float* out) { neighbourKernel(out, false); }, neighbour));
  } else if (kind == "copy") {
    call.returns(wrongCopies(true, true));
  } else if (kind == "copy without wait") {
    call.returns(wrongCopies(false, true));
  } else if (kind == "copy without barrier") {
    call.returns(wrongCopies(true, false));
  } else if (kind == "lanes") {
    call.returns(wrong(laneSumKernel, [](int t) { return t < 32 ? 496.0f : 1520.0f; }));
  } else if (kind == "divergent barrier") {
    emulated::run(kBlocks, kThreads, 0, divergentKernel);
  } else {
    call.reject(0, "no probe \"", kind, "\"");
  }
}

}  // namespace

void RegisterEmulatedProbe(Registry& registry) { registry.add("emulatedProbe", probe); }

}  // namespace goku
