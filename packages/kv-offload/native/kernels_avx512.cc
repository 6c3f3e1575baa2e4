#include "attention_kernels.h"
#include "simd_avx512.h"

namespace magicpig::kv {

extern const Kernels kAvx512F32 = MakeKernels<FloatCore<Avx512, F32Elements<Avx512>>>();
extern const Kernels kAvx512Bf16 = MakeKernels<FloatCore<Avx512, Bf16Elements<Avx512>>>();

}  // namespace magicpig::kv
