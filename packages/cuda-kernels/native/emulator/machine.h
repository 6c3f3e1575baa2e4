// What the parts of the emulator tell each other about the block that runs.
#ifndef MAGICPIG_EMULATOR_MACHINE_H_
#define MAGICPIG_EMULATOR_MACHINE_H_

#include "cuda_runtime.h"

namespace emulator {

// The limits that every architecture the kernels are built for keeps (sm_86, 89 and 120 have the least shared memory).
constexpr size_t kSharedBytes = 99 * 1024, kSharedBytesUnasked = 48 * 1024;
constexpr unsigned kMaxThreads = 1024, kMaxGridX = 0x7fffffffu, kMaxGridYZ = 65535;
constexpr size_t kMaxPitch = 0x7fffffff;  // of copies of rows, bytes

// When an access happens, in numbers that grow over the whole process.
struct Moment {
  uint32_t interval;       // between two barriers of a block
  uint32_t warp_interval;  // between two __syncwarp of a warp
  uint32_t thread;         // in its block
};

// Of the running thread, or of another lane of its warp.
Moment moment(int lane);

// What runs now. Read at every access of a kernel to memory.
struct Now {
  bool in_kernel = false;  // a kernel's thread, and not the host
  uintptr_t stack = 0;     // of that thread
  uint32_t interval = 0, block_began = 0, launch_began = 0;  // the last two: first intervals of the block and of the launch
};
inline Now now;
constexpr size_t kStackBytes = 256 * 1024;

struct Range {
  unsigned char* begin;
  size_t bytes;
};
Range dynamic_shared_range();  // kGuard bytes lie around it
Order current_order();

void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);

}  // namespace emulator

#endif  // MAGICPIG_EMULATOR_MACHINE_H_
