// Product and sum of float32, each rounded: where a fused operation would give other bits than a CPU's.
#ifndef MAGICPIG_DEVICE_ROUNDED_H_
#define MAGICPIG_DEVICE_ROUNDED_H_

#include <cuda_runtime.h>

namespace magicpig {

__host__ __device__ __forceinline__ float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  volatile float product = a * b;
  return product;
#endif
}
__host__ __device__ __forceinline__ float sum_of(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  volatile float sum = a + b;
  return sum;
#endif
}

}  // namespace magicpig

#endif  // MAGICPIG_DEVICE_ROUNDED_H_
