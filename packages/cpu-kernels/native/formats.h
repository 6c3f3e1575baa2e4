// Element formats of checkpoints and of packed weights.
#ifndef MAGICPIG_CPU_FORMATS_H_
#define MAGICPIG_CPU_FORMATS_H_

#include <stddef.h>
#include <stdint.h>

namespace magicpig::cpu {

// Encodings of a checkpoint's tensors. The quantised ones are ggml's blocks.
enum class SourceType : uint8_t { kF32, kF16, kBf16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K };

struct BlockLayout {
  uint32_t values;  // consecutive values of a row in one block
  uint32_t bytes;
};

// Indexed by SourceType.
inline constexpr BlockLayout kBlockLayouts[] = {
    {1, 4}, {1, 2}, {1, 2}, {32, 34}, {32, 18}, {32, 20}, {32, 22}, {32, 24}, {256, 144}, {256, 176}, {256, 210},
};

// Values per dequantisation call: a multiple of every block.
inline constexpr size_t kMaxBlockValues = 256;

// Formats of packed weights.
enum class Format : uint8_t { kF32, kBf16 };
inline constexpr int kFormats = 2;

// A packed matrix is a sequence of panels of kPanel outputs, with the inputs (k) from first to last inside a panel:
//   f32   [ceil(rows / kPanel)][cols][kPanel]        float
//   bf16  [ceil(rows / kPanel)][cols / 2][kPanel][2] bfloat16
// so that one row of activations reads the weights in one sequential stream, and a register tile reads two vectors of
// sixteen outputs a step. Missing outputs of the last panel are zero. In a gated matrix the first half of each panel is
// outputs of the gate and the second half the same outputs of up, so that SwiGLU needs nothing but the tile.
inline constexpr size_t kPanel = 32;

inline constexpr size_t WeightBytes(Format format) { return format == Format::kF32 ? 4 : 2; }

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_FORMATS_H_
