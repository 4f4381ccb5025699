#include "native/kernels/optimizer.h"

#include "native/binding/call.h"

namespace goku {
namespace {

void adamw(Call& c) {
  const auto state = [&c](size_t first) {
    return AdamwState{c.tensor(first, DType::kF32), c.tensor(first + 1, DType::kF32),
                      c.tensor(first + 2, DType::kF32), c.tensor(first + 3, DType::kF32)};
  };
  const AdamwSettings settings{.lr = c.number(11),
                               .beta1 = c.number(12),
                               .beta2 = c.number(13),
                               .eps = c.number(14),
                               .weightDecay = c.number(15),
                               .gradScale = c.number(16),
                               .emaDecay = c.number(17),
                               .step = c.integer(18, 1, int64_t{1} << 53)};
  adamwStep(state(0), state(4), c.tensor(8, DType::kF32), c.tensorOrNull(9), c.doubles(10), settings,
            c.uint32s(19));
}

}  // namespace

void RegisterOptimizer(Registry& registry) {
  registry.add("adamwStep", adamw);
  registry.add("tensorChecksums", [](Call& c) { tensorChecksums(c.tensor(0), c.uint32s(1)); });
  registry.add("sumSquares", [](Call& c) { c.returns(sumSquares(c.tensor(0), c.count(1), c.count(2))); });
}

}  // namespace goku
