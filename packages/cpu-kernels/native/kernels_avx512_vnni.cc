// Kernels for AVX-512 with VNNI and without BF16 (Cascade Lake, Ice Lake).
#include "vnni_avx512.h"

namespace magicpig::cpu {

constinit const Kernels kAvx512VnniKernels = MakeKernels<V16, QVnni>();

}  // namespace magicpig::cpu
