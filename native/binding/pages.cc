#include "native/binding/call.h"

namespace goku {

void RegisterPages(Registry&) {}

}  // namespace goku
