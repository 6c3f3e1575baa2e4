#include "attention_kernels.h"
#include "simd_avx2.h"

namespace magicpig::kv {

extern const Kernels kAvx2F32 = MakeKernels<FloatCore<Avx2, F32Elements<Avx2>>>();
extern const Kernels kAvx2Bf16 = MakeKernels<FloatCore<Avx2, Bf16Elements<Avx2>>>();

}  // namespace magicpig::kv
