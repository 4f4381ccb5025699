// Copies leave the device on the copy stream, which begins when the compute stream has come to where it is
// now. They go in pieces: another stream's copy to the host, such as a gradient's, waits for one of them at
// most.
//
// Checksums are made on the device, of what is copied, by kernels on the copy stream: they are those of the
// state itself, and a byte that arrives wrong in the host differs from them.
#include <algorithm>
#include <utility>

#include "native/cuda/checksums.h"
#include "native/cuda/streams.h"
#include "native/kernels/checks.h"
#include "native/kernels/snapshot.h"

namespace goku {
namespace {

constexpr size_t kPieceBytes = size_t{64} << 20;

class DeviceSnapshot final : public Snapshot {
 public:
  DeviceSnapshot(std::vector<Tensor> from, std::vector<Tensor> to)
      : from_(std::move(from)),
        to_(std::move(to)),
        count_(static_cast<size_t>(checks::snapshot(from_, to_))),
        sums_(count_ * sizeof(uint32_t)) {}
  // The tensors go back only when nothing reads or writes them.
  ~DeviceSnapshot() override { cudaStreamSynchronize(stream_); }

  void start() {
    written_.record(computeStream());
    written_.holdBack(stream_);
    auto* sums = sums_.as<uint32_t>();
    for (const Tensor& x : from_) {
      const auto bytes = static_cast<int64_t>(x.bytes());
      checksumChunks(sums, x.as<uint8_t>(), bytes, stream_);
      sums += checksumsOf(bytes);
    }
    for (size_t i = 0; i < from_.size(); i++) copy(from_[i], to_[i]);
    read_.record(stream_);
  }

  void fence() override { read_.holdBack(computeStream()); }

  void wait(std::span<uint32_t> checksums) override {
    checks::snapshotChecksums(checksums, count_);
    if (!checksums.empty())
      CUDA_CHECK(cudaMemcpyAsync(checksums.data(), sums_.as<void>(), checksums.size_bytes(),
                                 cudaMemcpyDefault, stream_));
    CUDA_CHECK(cudaStreamSynchronize(stream_));
  }

 private:
  void copy(const Tensor& from, const Tensor& to) const {
    for (size_t at = 0; at < from.bytes(); at += kPieceBytes)
      CUDA_CHECK(cudaMemcpyAsync(to.data + at, from.data + at, std::min(kPieceBytes, from.bytes() - at),
                                 cudaMemcpyDefault, stream_));
  }

  const cudaStream_t stream_ = copyStream();
  const std::vector<Tensor> from_, to_;
  const size_t count_;
  const DeviceScratch sums_;
  Event written_, read_;
};

}  // namespace

std::unique_ptr<Snapshot> startSnapshot(std::vector<Tensor> from, std::vector<Tensor> to) {
  auto snapshot = std::make_unique<DeviceSnapshot>(std::move(from), std::move(to));
  snapshot->start();
  return snapshot;
}

}  // namespace goku
