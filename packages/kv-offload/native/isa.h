// Which instruction set the kernels use, chosen once when the library is loaded.
#ifndef MAGICPIG_KV_ISA_H_
#define MAGICPIG_KV_ISA_H_

namespace magicpig::kv {

enum class Isa { kPortable, kNeon, kAvx2, kAvx512, kAvx512Bf16 };

// The best one that the CPU offers and that the environment variable MAGICPIG_ISA (portable, neon, avx2, avx512,
// avx512bf16) does not exclude. The variable lowers the choice only; any other value is ignored.
Isa ActiveIsa();

const char* IsaName(Isa isa);

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_ISA_H_
