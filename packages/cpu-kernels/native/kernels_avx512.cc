// Kernels for AVX-512 F, BW, DQ and VL.
#include "vector_avx512.h"

namespace magicpig::cpu {

constinit const Kernels kAvx512Kernels = MakeKernels<V16, PairProducts<Q16>>();

}  // namespace magicpig::cpu
