#include "native/collectives/device_lines.h"

namespace goku::collectives {

DeviceLinesFormed formDeviceLines(const GroupOptions&, Waiter&, const HostGather&) { return {}; }

}  // namespace goku::collectives
