#include <cstring>

#include "native/binding/call.h"
#include "native/kernels/philox.h"

namespace goku {
namespace {

void words(Call& call) {
  const auto counter = call.uint32s(0);
  const auto key = call.uint32s(1);
  if (counter.size() != 4) call.reject(0, counter.size(), " words, want 4");
  if (key.size() != 2) call.reject(1, key.size(), " words, want 2");
  const auto result = philox4x32({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
  void* data;
  napi_value buffer, array;
  checkNapi(napi_create_arraybuffer(call.env(), sizeof result, &data, &buffer), "philoxWords");
  std::memcpy(data, result.data(), sizeof result);
  checkNapi(napi_create_typedarray(call.env(), napi_uint32_array, result.size(), buffer, 0, &array),
            "philoxWords");
  call.returns(array);
}

}  // namespace

void RegisterRandom(Registry& registry) {
  registry.add("philoxNormal", [](Call& c) {
    philoxNormal(c.tensor(0, DType::kF32), c.count(1), c.count(2),
                 {.seed = c.uint64(3), .stream = c.uint32(4), .step = c.uint32(5), .which = c.uint32(6)},
                 c.count(7), c.number(8));
  });
  registry.add("philoxWords", words);
}

}  // namespace goku
