#include "native/collectives/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "native/collectives/fault.h"

namespace goku::collectives {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

AddressList resolve(const std::string& host, uint16_t port, bool passive) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  const int failed = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failed != 0) {
    throw FaultError(ErrorCode::kIo, -1, "host " + host + " is not known (" + gai_strerror(failed) + ")");
  }
  return AddressList(found, &freeaddrinfo);
}

}  // namespace

UniqueFd listenOn(const std::string& host, uint16_t port) {
  const AddressList address = resolve(host, port, true);
  UniqueFd fd(::socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  // A group of 12,288 may come at once; the kernel takes net.core.somaxconn at most.
  const int waiting = 65535;
  if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(fd.get(), address->ai_addr, address->ai_addrlen) != 0 || ::listen(fd.get(), waiting) != 0) {
    throw FaultError(
        ErrorCode::kIo, -1,
        host + " port " + std::to_string(port) + " cannot be bound (" + std::strerror(errno) + ")");
  }
  return fd;
}

uint16_t portOf(int listening) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  if (::getsockname(listening, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return 0;
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port);
  return ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

UniqueFd beginConnect(const std::string& host, uint16_t port) {
  const AddressList address = resolve(host, port, false);
  UniqueFd fd(::socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd)
    throw FaultError(ErrorCode::kIo, -1, std::string("no socket can be had (") + std::strerror(errno) + ")");
  // A refusal may come at once or later: connectError tells either way, since the error stays on the socket
  // only when it is pending. An immediate one is told by an invalid descriptor.
  if (::connect(fd.get(), address->ai_addr, address->ai_addrlen) != 0 && errno != EINPROGRESS)
    return UniqueFd();
  return fd;
}

int connectError(int fd) {
  int error = 0;
  socklen_t bytes = sizeof(error);
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) return errno;
  return error;
}

void tuneSocket(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

bool sendWhole(int fd, const void* bytes, size_t count) noexcept {
  return ::send(fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT) == static_cast<ssize_t>(count);
}

long receiveSome(int fd, void* into, size_t count) noexcept {
  for (;;) {
    const ssize_t got = ::recv(fd, into, count, MSG_DONTWAIT);
    if (got > 0) return got;
    if (got == 0) return -1;
    if (errno == EINTR) continue;
    return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -1;
  }
}

}  // namespace goku::collectives
