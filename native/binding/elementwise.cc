#include "native/kernels/elementwise.h"

#include "native/binding/call.h"

namespace goku {

void RegisterElementwise(Registry& registry) {
  registry.add("tensorFill", [](Call& c) { tensorFill(c.tensor(0), c.number(1)); });
  registry.add("tensorCast", [](Call& c) { tensorCast(c.tensor(0), c.tensor(1)); });
  registry.add("tensorAdd", [](Call& c) { tensorAdd(c.tensor(0), c.tensor(1)); });
  registry.add("copy2d", [](Call& c) {
    copy2d(c.tensor(0), c.count(1), c.count(2), c.tensor(3), c.count(4), c.count(5), c.count(6), c.count(7));
  });
  registry.add("geluForward", [](Call& c) { geluForward(c.tensor(0), c.tensor(1)); });
  registry.add("geluBackward", [](Call& c) { geluBackward(c.tensor(0), c.tensor(1), c.tensor(2)); });
  registry.add("siluForward", [](Call& c) { siluForward(c.tensor(0), c.tensor(1)); });
  registry.add("siluBackward", [](Call& c) { siluBackward(c.tensor(0), c.tensor(1), c.tensor(2)); });
}

}  // namespace goku
