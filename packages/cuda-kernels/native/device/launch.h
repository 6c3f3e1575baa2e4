// Launching a kernel, on the GPU or in the emulator, with one spelling.
#ifndef MAGICPIG_DEVICE_LAUNCH_H_
#define MAGICPIG_DEVICE_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace magicpig {

constexpr unsigned kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Queues kernel<<<grid, block, shared_bytes, stream>>>(arguments...). A grid without blocks is a success that does nothing.
// Above 48 KiB of dynamic shared memory the kernel's limit is raised first.
template <typename... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   std::type_identity_t<Parameters>... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
#if defined(MAGICPIG_EMULATE)
  return emulator::launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, stream, [=] { kernel(arguments...); });
#else
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  return cudaGetLastError();
#endif
}

// The block's dynamic shared memory, 128-byte aligned.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(MAGICPIG_EMULATE)
  return static_cast<T*>(emulator::dynamic_shared_memory());
#else
  extern __shared__ __align__(128) unsigned char magicpig_shared[];
  return reinterpret_cast<T*>(magicpig_shared);
#endif
}

}  // namespace magicpig

#endif  // MAGICPIG_DEVICE_LAUNCH_H_
