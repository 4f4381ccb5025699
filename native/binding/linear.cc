#include "native/kernels/linear.h"

#include "native/binding/call.h"

namespace goku {
namespace {

ProductResources resources(Call& c) {
  return {c.context().tensors.allocator(), c.context().service<MatrixLibrary>()};
}
LinearShape shape(const Call& c, size_t first) {
  return {c.count(first), c.count(first + 1), c.count(first + 2)};
}

}  // namespace

void RegisterLinear(Registry& registry) {
  registry.add("linearForward", [](Call& c) {
    linearForward(resources(c), c.tensor(0), c.tensor(1), c.tensor(2), c.tensorOrNull(3), shape(c, 4),
                  c.tensorOrNull(7));
  });
  registry.add("linearBackwardInput", [](Call& c) {
    linearBackwardInput(resources(c), c.tensor(0), c.tensor(1), c.tensor(2), shape(c, 3), c.boolean(6));
  });
  registry.add("linearBackwardWeight", [](Call& c) {
    const Tensor* dbias = c.tensorOrNull(1);
    if (dbias != nullptr) c.tensor(1, DType::kF32);
    linearBackwardWeight(resources(c), c.tensor(0, DType::kF32), dbias, c.tensor(2), c.tensor(3), shape(c, 4),
                         c.boolean(7));
  });
}

}  // namespace goku
