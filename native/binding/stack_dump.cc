#include "native/stack_dump.h"

#include "native/binding/call.h"

namespace goku {

void RegisterStackDump(Registry& registry) {
  registry.add("stackDumpInstall", [](Call& c) { installStackDump(c.string(0)); });
}

}  // namespace goku
