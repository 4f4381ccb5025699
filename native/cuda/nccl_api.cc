#include "native/cuda/nccl_api.h"

namespace goku::nccl {

std::string versionText(int version) {
  return concat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

Api::Api() : library_("libnccl.so.2", "nvidia-nccl-cu13") {
  const auto find = [&]<class Function>(Function*& function, const char* name) {
    function = library_.symbol<Function>(name);
  };
  Result (*getVersion)(int* version);
  find(getVersion, "ncclGetVersion");
  if (getVersion(&version) != Result::kSuccess || version < kVersionMin)
    throw NativeError(ErrorCode::kDevice,
                      concat("Cannot use NCCL ", versionText(version), ": want ", versionText(kVersionMin),
                             " or newer, run: pip install nvidia-nccl-cu13"));
  find(getUniqueId, "ncclGetUniqueId");
  find(commInitRankConfig, "ncclCommInitRankConfig");
  find(commFinalize, "ncclCommFinalize");
  find(commDestroy, "ncclCommDestroy");
  find(commAbort, "ncclCommAbort");
  find(commGetAsyncError, "ncclCommGetAsyncError");
  find(getLastError, "ncclGetLastError");
  find(groupStart, "ncclGroupStart");
  find(groupEnd, "ncclGroupEnd");
  find(send, "ncclSend");
  find(receive, "ncclRecv");
  find(allGather, "ncclAllGather");
  find(broadcast, "ncclBroadcast");
}

}  // namespace goku::nccl
