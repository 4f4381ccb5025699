// The module: one Context for every environment that loads it.
#include "native/binding/call.h"

namespace goku {
#if defined(GOKU_EMULATED_DEVICE)
void RegisterEmulatedProbe(Registry& registry);  // native/cuda/emulated_probe.cc
#endif
namespace {

// NATIVE_CONTRACT in worker/engine/native.ts.
constexpr uint32_t kContract = 6;

napi_value load(napi_env env, napi_value exports) {
  auto context = std::make_unique<Context>();
  Registry registry(env, exports, *context);
  for (auto* const part : {RegisterTensors, RegisterPages, RegisterLinear, RegisterElementwise, RegisterFlow,
                           RegisterNorm, RegisterAttention, RegisterRandom, RegisterOptimizer,
                           RegisterSnapshot, RegisterCollectives, RegisterStackDump, RegisterNvml}) {
    part(registry);
  }
#if defined(GOKU_EMULATED_DEVICE)
  RegisterEmulatedProbe(registry);
#endif
  napi_value contract;
  checkNapi(napi_create_uint32(env, kContract, &contract), "contract");
  checkNapi(napi_set_named_property(env, exports, "contract", contract), "contract");
  checkNapi(napi_set_instance_data(
                env, context.release(),
                [](napi_env, void* data, void*) { delete static_cast<Context*>(data); }, nullptr),
            "instance data");
  return exports;
}

}  // namespace
}  // namespace goku

NAPI_MODULE_INIT() {
  try {
    return goku::load(env, exports);
  } catch (const goku::NativeError& error) {
    goku::throwError(env, error);
    return nullptr;
  }
}
