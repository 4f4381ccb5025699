#include "native/collectives/staging.h"

#include "native/cuda/device.h"

namespace goku::collectives {
namespace {

/// Page-locked memory of the host: copies to and from the device need no buffer of the driver's.
StorageRef pinned(size_t bytes) {
  void* memory = nullptr;
  CUDA_CHECK(cudaMallocHost(&memory, bytes > 0 ? bytes : 1));
  return StorageRef(static_cast<std::byte*>(memory), [](std::byte* block) { cudaFreeHost(block); });
}

class Copies final : public Staged {
 public:
  explicit Copies(Operation& operation) : result_(operation.out) {
    if (operation.out.data != nullptr) {
      operation.out = copyOf(operation.out);
      host_ = operation.out;
    }
    if (operation.input.data != nullptr) operation.input = copyOf(operation.input);
    // Peers may read as soon as the operation starts.
    CUDA_CHECK(cudaStreamSynchronize(computeStream()));
  }

  void place() override {
    if (result_.data == nullptr) return;
    CUDA_CHECK(cudaMemcpyAsync(result_.data, host_.data, host_.bytes(), cudaMemcpyDefault, computeStream()));
    // The copy is freed with this object, by a call that does not look at streams.
    CUDA_CHECK(cudaStreamSynchronize(computeStream()));
  }

 private:
  static Tensor copyOf(const Tensor& device) {
    Tensor host = device;
    host.storage = pinned(device.bytes());
    host.data = host.storage.get();
    CUDA_CHECK(cudaMemcpyAsync(host.data, device.data, device.bytes(), cudaMemcpyDefault, computeStream()));
    return host;
  }

  Tensor result_;  // on the device, kept alive
  Tensor host_;
};

}  // namespace

std::unique_ptr<Staged> stage(Operation& operation) { return std::make_unique<Copies>(operation); }

}  // namespace goku::collectives
