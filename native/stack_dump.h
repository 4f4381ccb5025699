// What every thread of this process is doing, told from outside while it hangs: on SIGUSR2 a handler walks
// each thread's frames in turn and appends them to a file.
#pragma once

#include <string>

namespace goku {

/// Opens `path` for appending and installs the handlers. On each SIGUSR2 the file gets, for every thread,
///   thread <tid> <name>
///   <address, hexadecimal>        innermost first
/// and, last, the line "end". Addresses are raw: whoever reads them has this process's map and its files'
/// symbols. A second call gives later dumps another file. Throws NATIVE_IO.
void installStackDump(const std::string& path);

}  // namespace goku
