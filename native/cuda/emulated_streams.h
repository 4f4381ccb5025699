// Streams and events of the emulated device (native/cuda/emulated_device.h says what they show).
#pragma once

namespace goku::emulated {

/// Runs what is queued on any stream.
void runStreams();

}  // namespace goku::emulated
