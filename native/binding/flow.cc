#include "native/binding/call.h"

namespace goku {

void RegisterFlow(Registry&) {}

}  // namespace goku
