// Errors of native code. Everything that fails throws NativeError; binding/ turns it into a JavaScript Error
// whose `code` is the name below (NativeErrorCode in worker/engine/native.ts).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace goku {

enum class ErrorCode { kArgument, kOutOfMemory, kIo, kDevice, kPeerDied, kAborted, kTimeout };

/// The name JavaScript sees.
inline const char* errorCodeName(ErrorCode code) {
  switch (code) {
    case ErrorCode::kArgument:
      return "NATIVE_ARGUMENT";
    case ErrorCode::kOutOfMemory:
      return "NATIVE_OUT_OF_MEMORY";
    case ErrorCode::kIo:
      return "NATIVE_IO";
    case ErrorCode::kDevice:
      return "NATIVE_DEVICE";
    case ErrorCode::kPeerDied:
      return "COMM_PEER_DIED";
    case ErrorCode::kAborted:
      return "COMM_ABORTED";
    case ErrorCode::kTimeout:
      return "COMM_TIMEOUT";
  }
  return "NATIVE_ARGUMENT";
}

/// Message form: action, colon, found and wanted, what to do; no full stop.
class NativeError : public std::runtime_error {
 public:
  NativeError(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  /// A collective's error. peer: rank in the world, -1 unknown; operation: e.g. "allGather".
  NativeError(ErrorCode code, const std::string& message, int peer, std::string operation)
      : std::runtime_error(message), code_(code), peer_(peer), operation_(std::move(operation)) {}

  ErrorCode code() const { return code_; }
  bool hasPeer() const { return !operation_.empty(); }
  int peer() const { return peer_; }
  const std::string& operation() const { return operation_; }

 private:
  ErrorCode code_;
  int peer_ = -1;
  std::string operation_;
};

/// Puts its arguments one after another: concat("x has ", 3, " rows").
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

[[noreturn]] inline void failCheck(const char* expression, const char* file, int line,
                                   const std::string& message) {
  // The path from native/ on: a message must not depend on where the sources were built.
  const std::string path(file);
  const size_t start = path.rfind("native/");
  throw NativeError(ErrorCode::kArgument,
                    concat(message, " (", expression, " at ",
                           start == std::string::npos ? path : path.substr(start), ":", line, ")"));
}

}  // namespace goku

/// Throws NATIVE_ARGUMENT with the message parts, the expression and its place:
/// GOKU_CHECK(y.count == N * F, "linearForward: y has ", y.count, " elements, want ", N * F);
#define GOKU_CHECK(condition, ...)                                                    \
  do {                                                                                \
    if (!(condition)) [[unlikely]]                                                    \
      ::goku::failCheck(#condition, __FILE__, __LINE__, ::goku::concat(__VA_ARGS__)); \
  } while (false)
