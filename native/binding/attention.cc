#include "native/binding/call.h"

namespace goku {

void RegisterAttention(Registry&) {}

}  // namespace goku
