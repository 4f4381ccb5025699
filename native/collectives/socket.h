// Small steps over sockets that both the listener and the forming of a group need. Nothing here blocks,
// but for resolving a host that is a name and not an address.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "native/unique_fd.h"

namespace goku::collectives {

/// Binds and listens; port 0 takes any free one. Throws FaultError(kIo).
UniqueFd listenOn(const std::string& host, uint16_t port);
uint16_t portOf(int listening);

/// Begins a connection; poll for POLLOUT, then ask connectError. Throws FaultError(kIo) where the host is
/// unknown.
UniqueFd beginConnect(const std::string& host, uint16_t port);
/// errno of a finished connection attempt, 0: connected.
int connectError(int fd);

/// No delay for small frames. Buffers stay as the kernel grows them: fixed ones from 128 KiB to 4 MiB were no
/// faster.
void tuneSocket(int fd);

/// Sends all of a small frame at once: into an almost empty kernel buffer there is always room. False: the
/// peer is gone.
bool sendWhole(int fd, const void* bytes, size_t count) noexcept;

/// Bytes read, 0: nothing there now, -1: the peer has closed or reset the connection.
long receiveSome(int fd, void* into, size_t count) noexcept;

}  // namespace goku::collectives
