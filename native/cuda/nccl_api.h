// What this backend uses of NCCL (https://docs.nvidia.com/deeplearning/nccl), declared here so that neither a
// build nor its machine needs nccl.h: the library is found when the first group forms. nccl_header.cc
// compares these with NVIDIA's own where a build has it.
#pragma once

#include <climits>
#include <cstddef>
#include <string>

#include "native/cuda/device.h"
#include "native/cuda/library.h"

namespace goku::nccl {

using Comm = struct OpaqueComm*;

enum class Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

/// Payload is bytes: whatever is computed is computed by our own kernels (docs/decisions/034).
inline constexpr int kUint8 = 1;

struct UniqueId {
  char internal[128];
};

/// The first fields of ncclConfig_t, as NCCL 2.18 knew them; `size` says that there are no more.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = 21800;
  int blocking = INT_MIN;  // INT_MIN: as NCCL thinks fit
  int cgaClusterSize = INT_MIN;
  int minCTAs = INT_MIN;
  int maxCTAs = INT_MIN;
  const char* netName = nullptr;
  int splitShare = INT_MIN;
};

/// The first for CUDA 12.8, the oldest that this backend is built with.
inline constexpr int kVersionMin = 22500;

/// "2.30.7" of 23007.
std::string versionText(int version);

/// The functions of the loaded library, which stays loaded: threads of its own may outlive every
/// communicator.
class Api {
 public:
  /// Throws NATIVE_DEVICE where there is no library or an old one: what to install.
  Api();

  int version = 0;
  Result (*getUniqueId)(UniqueId* id);
  Result (*commInitRankConfig)(Comm* comm, int size, UniqueId id, int rank, Config* config);
  Result (*commFinalize)(Comm comm);
  Result (*commDestroy)(Comm comm);
  Result (*commAbort)(Comm comm);
  Result (*commGetAsyncError)(Comm comm, Result* state);
  const char* (*getLastError)(Comm comm);
  Result (*groupStart)();
  Result (*groupEnd)();
  Result (*send)(const void* from, size_t count, int type, int peer, Comm comm, cudaStream_t stream);
  Result (*receive)(void* to, size_t count, int type, int peer, Comm comm, cudaStream_t stream);
  Result (*allGather)(const void* from, void* to, size_t count, int type, Comm comm, cudaStream_t stream);
  Result (*broadcast)(const void* from, void* to, size_t count, int type, int root, Comm comm,
                      cudaStream_t stream);

 private:
  Library library_;
};

}  // namespace goku::nccl
