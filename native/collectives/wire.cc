#include "native/collectives/wire.h"

namespace goku::collectives {

std::vector<std::byte> encodeHello(const Hello& hello) {
  HelloFixed fixed;
  fixed.channel = static_cast<uint16_t>(hello.channel);
  fixed.generation = hello.key.generation;
  fixed.membersDigest = hello.membersDigest;
  fixed.fromMember = hello.fromMember;
  fixed.toMember = hello.toMember;
  fixed.jobBytes = static_cast<uint16_t>(hello.key.job.size());
  fixed.nameBytes = static_cast<uint16_t>(hello.key.name.size());
  std::vector<std::byte> bytes(sizeof(fixed) + hello.key.job.size() + hello.key.name.size());
  std::memcpy(bytes.data(), &fixed, sizeof(fixed));
  std::memcpy(bytes.data() + sizeof(fixed), hello.key.job.data(), hello.key.job.size());
  std::memcpy(bytes.data() + sizeof(fixed) + hello.key.job.size(), hello.key.name.data(),
              hello.key.name.size());
  return bytes;
}

HelloState decodeHello(std::span<const std::byte> bytes, Hello* hello) {
  // The magic is checked as soon as it is there, so that a stray client is not held until its deadline.
  uint32_t magic = 0;
  if (bytes.size() < sizeof(magic)) return HelloState::kPartial;
  std::memcpy(&magic, bytes.data(), sizeof(magic));
  if (magic != kHelloMagic) return HelloState::kMalformed;
  HelloFixed fixed;
  if (bytes.size() < sizeof(fixed)) return HelloState::kPartial;
  std::memcpy(&fixed, bytes.data(), sizeof(fixed));
  if (fixed.version != kWireVersion || fixed.reserved != 0 || fixed.nameBytes == 0 ||
      fixed.jobBytes > kNameBytesMax || fixed.nameBytes > kNameBytesMax ||
      fixed.channel > static_cast<uint16_t>(Channel::kData)) {
    return HelloState::kMalformed;
  }
  const size_t whole = sizeof(fixed) + fixed.jobBytes + fixed.nameBytes;
  if (bytes.size() < whole) return HelloState::kPartial;
  // The dialling side waits for our answer before it sends more: surplus bytes are not ours.
  if (bytes.size() > whole) return HelloState::kMalformed;
  const char* text = reinterpret_cast<const char*>(bytes.data()) + sizeof(fixed);
  hello->key.job.assign(text, fixed.jobBytes);
  hello->key.name.assign(text + fixed.jobBytes, fixed.nameBytes);
  hello->key.generation = fixed.generation;
  hello->membersDigest = fixed.membersDigest;
  hello->fromMember = fixed.fromMember;
  hello->toMember = fixed.toMember;
  hello->channel = static_cast<Channel>(fixed.channel);
  return HelloState::kWhole;
}

}  // namespace goku::collectives
