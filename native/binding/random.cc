#include "native/binding/call.h"

namespace goku {

void RegisterRandom(Registry&) {}

}  // namespace goku
