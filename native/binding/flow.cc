#include "native/kernels/flow.h"

#include "native/binding/call.h"

namespace goku {

void RegisterFlow(Registry& registry) {
  registry.add("timestepSinusoid", [](Call& c) {
    timestepSinusoid(c.tensor(0, DType::kF32), c.tensor(1, DType::kF32), c.count(2));
  });
  registry.add("flowPath", [](Call& c) {
    flowPath(c.tensor(0), c.tensor(1, DType::kF32), c.tensor(2, DType::kF32), c.tensor(3, DType::kF32),
             c.tensor(4, DType::kF32), c.offsets(5), c.count(6));
  });
  registry.add("flowLoss", [](Call& c) {
    c.returns(flowLoss(c.tensorOrNull(0), c.tensor(1), c.tensor(2, DType::kF32), c.doubles(3), c.doubles(4),
                       c.offsets(5), c.count(6)));
  });
  registry.add("eulerUpdate", [](Call& c) {
    eulerUpdate(c.tensor(0, DType::kF32), c.tensor(1), c.tensorOrNull(2), c.number(3), c.number(4));
  });
}

}  // namespace goku
