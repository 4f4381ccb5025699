#include "native/cuda/library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "native/error.h"

namespace goku {

std::vector<std::string> Library::places(const std::string& file) {
  std::vector<std::string> places{file};
  const char* root = std::getenv("GOKU_NVIDIA_ROOT");
  if (root == nullptr || *root == '\0') return places;
  for (const char* folder : {"/cu13/lib/", "/nccl/lib/", "/cudnn/lib/", "/cublas/lib/", "/lib64/", "/lib/"})
    places.push_back(root + std::string(folder) + file);
  return places;
}

Library::Library(const std::string& file, const std::string& package) : file_(file) {
  std::string reason;
  for (const std::string& place : places(file)) {
    // Its own: libraries of another CUDA in the process must not answer for it.
    // Never unmapped: NCCL's own threads may run for a while after its last communicator.
    handle_.reset(dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE), [](void* handle) {
      if (handle != nullptr) dlclose(handle);
    });
    if (handle_) return;
    if (reason.empty()) reason = dlerror();
  }
  throw NativeError(ErrorCode::kDevice,
                    concat("Cannot load ", file, ": ", reason, ", run: pip install ", package,
                           ", and set GOKU_NVIDIA_ROOT to its folder nvidia, or LD_LIBRARY_PATH"));
}

void* Library::find(const char* name) const {
  void* found = dlsym(handle_.get(), name);
  if (found == nullptr)
    throw NativeError(ErrorCode::kDevice,
                      concat("Cannot use ", file_, ": it has no ", name, ", install a newer one"));
  return found;
}

}  // namespace goku
