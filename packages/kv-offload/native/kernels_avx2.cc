#include "attention_kernels.h"
#include "simd_avx2.h"

namespace magicpig::kv {

extern const Kernels kAvx2[4] = {  // (Dtype)
    MakeKernels<FloatCore<Avx2, Bf16Elements<Avx2>>>(),
    MakeKernels<FloatCore<Avx2, F16Elements<Avx2>>>(),
    MakeKernels<FloatCore<Avx2, F32Elements<Avx2>>>(),
    MakeKernels<FloatCore<Avx2, Int8Elements<Avx2>>>(),
};

}  // namespace magicpig::kv
