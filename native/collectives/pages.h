// Byte offsets of the control page and the progress page: the C++ side of worker/pages.ts, name for name.
// test/native/collectives_pages.test.ts reads both files and fails where they differ.
#pragma once

#include <cstdint>

namespace goku::pages {

inline constexpr uint32_t kPageBytes = 4096;

namespace control {
inline constexpr uint32_t abortGeneration = 0;
inline constexpr uint32_t abortPeer = 8;
inline constexpr uint32_t abortReason = 12;
}  // namespace control

namespace progress {
inline constexpr uint32_t generation = 0;
inline constexpr uint32_t step = 8;
inline constexpr uint32_t microStep = 16;
inline constexpr uint32_t phase = 20;
inline constexpr uint32_t layer = 24;
inline constexpr uint32_t pid = 28;
inline constexpr uint32_t changedMs = 32;
inline constexpr uint32_t collectiveEntered = 48;
inline constexpr uint32_t collectiveCompleted = 56;
inline constexpr uint32_t collectiveKind = 64;
inline constexpr uint32_t collectiveGroup = 68;
inline constexpr uint32_t collectiveBytes = 72;
inline constexpr uint32_t collectiveGroupName = 80;
inline constexpr uint32_t timedSteps = 112;
inline constexpr uint32_t timedWork = 120;
inline constexpr uint32_t forwardUs = 128;
inline constexpr uint32_t backwardUs = 136;
inline constexpr uint32_t optimizerUs = 144;
inline constexpr uint32_t dataUs = 152;
inline constexpr uint32_t waitUs = 160;
inline constexpr uint32_t waitAllGatherUs = 168;
inline constexpr uint32_t waitReduceScatterUs = 176;
inline constexpr uint32_t waitAllReduceUs = 184;
inline constexpr uint32_t waitAllToAllUs = 192;
inline constexpr uint32_t waitVoteUs = 200;
inline constexpr uint32_t snapshotStep = 208;
inline constexpr uint32_t snapshotMs = 216;
inline constexpr uint32_t snapshotsFailed = 224;
}  // namespace progress

/// Bytes of the group's name in the progress page, padded with NUL; longer names are cut.
inline constexpr uint32_t kGroupNameBytes = 32;

/// Values of collectiveKind.
namespace collective {
inline constexpr uint32_t none = 0;
inline constexpr uint32_t allGather = 1;
inline constexpr uint32_t reduceScatter = 2;
inline constexpr uint32_t allReduce = 3;
inline constexpr uint32_t allToAll = 4;
inline constexpr uint32_t broadcast = 5;
inline constexpr uint32_t barrier = 6;
inline constexpr uint32_t connect = 7;
}  // namespace collective

}  // namespace goku::pages
