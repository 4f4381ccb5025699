#include "native/kernels/attention.h"

#include "native/binding/call.h"

namespace goku {

void RegisterAttention(Registry& registry) {
  registry.add("attentionForward", [](Call& c) {
    attentionForward(c.tensor(0), c.tensor(1, DType::kF32), c.tensor(2), c.tensor(3), c.tensor(4),
                     c.offsets(5), c.offsets(6), c.count(7), c.count(8));
  });
  registry.add("attentionBackward", [](Call& c) {
    attentionBackward(c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3), c.tensor(4),
                      c.tensor(5, DType::kF32), c.tensor(6), c.tensor(7), c.tensor(8), c.offsets(9),
                      c.offsets(10), c.count(11), c.count(12));
  });
}

}  // namespace goku
