// A library of NVIDIA's that is found when the first product or collective asks for it, and not when the
// addon is built or loaded: a build needs its headers alone, and the addon loads where the library is
// missing.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace goku {

class Library {
 public:
  /// `file`: its versioned name, such as libcublasLt.so.13; looked for where the system's loader looks, then
  /// below $GOKU_NVIDIA_ROOT as NVIDIA's toolkit and Python wheels lay it out. Throws NATIVE_DEVICE, which
  /// says what to install: `package` of pip.
  Library(const std::string& file, const std::string& package);

  /// Throws NATIVE_DEVICE where the library has no such function.
  template <class Function>
  Function* symbol(const char* name) const {
    return reinterpret_cast<Function*>(find(name));
  }

 private:
  static std::vector<std::string> places(const std::string& file);
  void* find(const char* name) const;

  std::string file_;
  std::shared_ptr<void> handle_;
};

}  // namespace goku
