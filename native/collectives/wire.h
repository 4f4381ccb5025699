// Everything that ranks say to each other over TCP, as it stands on the wire (little-endian).
//
// Each pair of members has a control connection: fixed frames only, never payload, so that an abort or a
// goodbye is not stuck behind data. Pairs without shared memory have a data connection beside it: for every
// collective one DataHeader in each direction, then the payload bytes it announces, and nothing else. A
// connection begins with Hello (dialling side), then Welcome (listening side).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "native/error.h"

namespace goku::collectives {

static_assert(std::endian::native == std::endian::little, "the wire format is copied from memory");

enum class Channel : uint16_t { kControl = 0, kData = 1 };

inline constexpr uint32_t kHelloMagic = 0x554B4F47;  // "GOKU"
inline constexpr uint16_t kWireVersion = 2;
inline constexpr size_t kNameBytesMax = 255;

struct HelloFixed {
  uint32_t magic = kHelloMagic;
  uint16_t version = kWireVersion;
  uint16_t channel = 0;
  uint64_t generation = 0;
  uint64_t membersDigest = 0;
  uint32_t fromMember = 0;  // index in the member list, not the rank in the world
  uint32_t toMember = 0;
  uint16_t jobBytes = 0;
  uint16_t nameBytes = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(HelloFixed) == 40);
inline constexpr size_t kHelloBytesMax = sizeof(HelloFixed) + 2 * kNameBytesMax;

/// Which group a connection is for. Generations fence: see Listener.
struct GroupKey {
  std::string job;
  uint64_t generation = 0;
  std::string name;
  bool operator==(const GroupKey&) const = default;
};

struct Hello {
  GroupKey key;
  uint64_t membersDigest = 0;
  uint32_t fromMember = 0;
  uint32_t toMember = 0;
  Channel channel = Channel::kControl;
};

std::vector<std::byte> encodeHello(const Hello& hello);

enum class HelloState { kPartial, kWhole, kMalformed };
/// Reads what has arrived of a Hello, from anyone who can connect: nothing in it is believed before it is
/// checked.
HelloState decodeHello(std::span<const std::byte> bytes, Hello* hello);

enum class WelcomeStatus : uint32_t {
  kAccepted = 1,
  kStale = 2,     // a newer generation of the job is here
  kUnknown = 3,   // no such group came to be in time, or too many are waiting: try again
  kMismatch = 4,  // the group is known with other members, or this member is connected already
};

struct Welcome {
  uint32_t magic = kHelloMagic;
  WelcomeStatus status = WelcomeStatus::kUnknown;
  uint64_t generation = 0;  // newest one of the job at the listening side, 0 where it knows none
};
static_assert(sizeof(Welcome) == 16);

inline constexpr uint32_t kFrameMagic = 0x4D524647;

enum class FrameType : uint16_t {
  kSegmentReady = 1,   // value: pid << 32 | descriptor of the shared memory, nonce: its mark
  kSegmentMapped = 2,  // nonce: the mark found in it
  kReady = 3,          // all connections and mappings of the sender stand
  kDoorbell = 4,       // wakes a member that sleeps in poll() while shared memory changed
  kAbort = 5,          // code: index in kWireCodes + 1, peer: culprit in the world or -1
  kGoodbye = 6,        // the sender has closed the group and everything it owed is sent
};

struct ControlFrame {
  uint32_t magic = kFrameMagic;
  FrameType type = FrameType::kGoodbye;
  uint16_t code = 0;
  int32_t peer = -1;
  uint32_t reserved = 0;
  uint64_t value = 0;
  uint64_t nonce = 0;
};
static_assert(sizeof(ControlFrame) == 32);

/// Error codes as abort frames carry them: index + 1. Append only.
inline constexpr ErrorCode kWireCodes[] = {ErrorCode::kArgument, ErrorCode::kOutOfMemory, ErrorCode::kIo,
                                           ErrorCode::kPeerDied, ErrorCode::kAborted,     ErrorCode::kTimeout,
                                           ErrorCode::kDevice};

inline constexpr uint32_t kDataMagic = 0x44524647;

/// Opens the part of one collective in one direction of a pair.
struct DataHeader {
  uint32_t magic = kDataMagic;
  uint32_t signature = 0;  // kind, element type and reduction: equal on both sides
  uint64_t sequence = 0;   // of this group, from 1
  uint64_t bytes = 0;      // payload that follows, or goes from device to device
  uint64_t wanted = 0;     // payload that the sender expects in return
};
static_assert(sizeof(DataHeader) == 32);

/// FNV-1a; also names groups in the progress page (32 bits) and compares member lists (64 bits).
constexpr uint32_t fnv1a32(std::string_view text) {
  uint32_t hash = 2166136261u;
  for (char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  return hash;
}
constexpr uint64_t fnv1a64(std::string_view text, uint64_t hash = 14695981039346656037ull) {
  for (char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  return hash;
}

}  // namespace goku::collectives
