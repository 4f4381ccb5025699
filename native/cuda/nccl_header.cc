// Compares nccl_api.h with NVIDIA's nccl.h; compiled where a build has that. It makes no code.
#include <nccl.h>

#include <type_traits>

#include "native/cuda/nccl_api.h"

namespace goku::nccl {
namespace {

/// Passed alike: pointers and handles as addresses, enumerations as the integers that they are.
template <class A, class B>
constexpr bool kAlike =
    sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>&& std::is_class_v<A> ==
                                  std::is_class_v<B>;

template <class A, class B>
struct SameCall : std::false_type {};
template <class R, class... A, class S, class... B>
requires(sizeof...(A) == sizeof...(B)) struct SameCall<R (*)(A...), S (*)(B...)>
    : std::bool_constant<kAlike<R, S> && (kAlike<A, B> && ...)> {
};

#define SAME_CALL(ours, theirs) static_assert(SameCall<decltype(Api::ours), decltype(&::theirs)>::value)
SAME_CALL(getUniqueId, ncclGetUniqueId);
SAME_CALL(commInitRankConfig, ncclCommInitRankConfig);
SAME_CALL(commFinalize, ncclCommFinalize);
SAME_CALL(commDestroy, ncclCommDestroy);
SAME_CALL(commAbort, ncclCommAbort);
SAME_CALL(commGetAsyncError, ncclCommGetAsyncError);
SAME_CALL(getLastError, ncclGetLastError);
SAME_CALL(groupStart, ncclGroupStart);
SAME_CALL(groupEnd, ncclGroupEnd);
SAME_CALL(send, ncclSend);
SAME_CALL(receive, ncclRecv);
SAME_CALL(allGather, ncclAllGather);
SAME_CALL(broadcast, ncclBroadcast);

static_assert(static_cast<int>(Result::kSuccess) == ncclSuccess);
static_assert(static_cast<int>(Result::kUnhandledCudaError) == ncclUnhandledCudaError);
static_assert(static_cast<int>(Result::kSystemError) == ncclSystemError);
static_assert(static_cast<int>(Result::kInternalError) == ncclInternalError);
static_assert(static_cast<int>(Result::kInvalidArgument) == ncclInvalidArgument);
static_assert(static_cast<int>(Result::kInvalidUsage) == ncclInvalidUsage);
static_assert(static_cast<int>(Result::kRemoteError) == ncclRemoteError);
static_assert(static_cast<int>(Result::kInProgress) == ncclInProgress);
static_assert(kUint8 == ncclUint8);
static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId));
static_assert(INT_MIN == NCCL_CONFIG_UNDEF_INT && Config{}.magic == NCCL_API_MAGIC);
static_assert(Config{}.version == NCCL_VERSION(2, 18, 0) && kVersionMin == NCCL_VERSION(2, 25, 0));

#define SAME_FIELD(field) static_assert(offsetof(Config, field) == offsetof(ncclConfig_t, field))
SAME_FIELD(size);
SAME_FIELD(magic);
SAME_FIELD(version);
SAME_FIELD(blocking);
SAME_FIELD(cgaClusterSize);
SAME_FIELD(minCTAs);
SAME_FIELD(maxCTAs);
SAME_FIELD(netName);
SAME_FIELD(splitShare);
static_assert(sizeof(Config) <= sizeof(ncclConfig_t));

}  // namespace
}  // namespace goku::nccl
