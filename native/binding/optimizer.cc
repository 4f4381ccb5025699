#include "native/binding/call.h"

namespace goku {

void RegisterOptimizer(Registry&) {}

}  // namespace goku
