#include "native/kernels/optimizer.h"

#include "native/binding/call.h"

namespace goku {
namespace {

void adamw(Call& c) {
  const AdamwSettings settings{.lr = c.number(8),
                               .beta1 = c.number(9),
                               .beta2 = c.number(10),
                               .eps = c.number(11),
                               .weightDecay = c.number(12),
                               .gradScale = c.number(13),
                               .emaDecay = c.number(14),
                               .step = c.integer(15, 1, int64_t{1} << 53)};
  adamwStep(c.tensor(0, DType::kF32), c.tensor(1, DType::kF32), c.tensor(2, DType::kF32),
            c.tensor(3, DType::kF32), c.tensor(4, DType::kF32), c.tensorOrNull(5), c.count(6), c.count(7),
            settings);
}

}  // namespace

void RegisterOptimizer(Registry& registry) {
  registry.add("adamwStep", adamw);
  registry.add("sumSquares", [](Call& c) { c.returns(sumSquares(c.tensor(0), c.count(1), c.count(2))); });
}

}  // namespace goku
