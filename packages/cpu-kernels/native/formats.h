// Element formats of checkpoints, of packed weights and of packed activations.
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

// What a caller asks for: see WeightFormat in weight.ts.
enum class WeightFormat : uint8_t { kF32, kBf16, kQ8, kQ4 };
inline constexpr int kWeightFormats = 4;

// What products see of the activations.
enum class InputFormat : uint8_t { kF32, kBf16, kInt16 };
inline constexpr int kInputFormats = 3;

inline constexpr InputFormat InputOf(WeightFormat format) {
  return format == WeightFormat::kF32 ? InputFormat::kF32
                                      : format == WeightFormat::kBf16 ? InputFormat::kBf16 : InputFormat::kInt16;
}

// How a panel holds its weights. A packed matrix is a sequence of panels of kPanel outputs. In a gated matrix the first half
// of each panel is outputs of the gate and the second half the same outputs of up, so that SwiGLU needs nothing but the tile.
// Missing outputs of the last panel are zero. Inside a panel the inputs (k) go from first to last, so that one row of
// activations reads the weights in one sequential stream:
//   kF32    [cols][kPanel]              float
//   kBf16   [cols / 2][kPanel][2]       bfloat16
// and quantised, for each half of kHalfPanel outputs, blocks of kQuantBlock inputs:
//   kQ8     [2][cols / 32] of { uint8 [8][16][4];             half scale[16] }                   w = scale (q - 128)
//   kQ4     [2][cols / 32] of { nibbles [4][16][4] (low, high); half scale[16] }                 w = scale (q - 8)
//   kQ4Min  [2][cols / 32] of { nibbles [4][16][4] (low, high); half scale[16]; half min[16] }   w = scale q + min
//   kQ6     [2][cols / 32] of { nibbles [4][16][4]; pairs [2][16][4]; half scale[2][16] }        w = scale (q - 32)
// where [8][16][4] is (group of four inputs, output, input), and byte [j] of the nibbles holds group 2j in its low and group
// 2j + 1 in its high half: a vector of bytes is sixteen outputs by four inputs, as the integer dot products take them. Of kQ6,
// byte [j] of the pairs holds bits 4 and 5 of group 4j + i in its bits 2i and 2i + 1, and the scales are those of the first and
// of the last sixteen inputs.
enum class PanelFormat : uint8_t { kF32, kBf16, kQ8, kQ4, kQ4Min, kQ6 };
inline constexpr int kPanelFormats = 6;

inline constexpr size_t kPanel = 32;
inline constexpr size_t kHalfPanel = kPanel / 2;
inline constexpr size_t kQuantBlock = 32;

// Bytes of a block of kHalfPanel outputs and kQuantBlock inputs.
inline constexpr size_t QuantBlockBytes(PanelFormat format) {
  switch (format) {
    case PanelFormat::kQ8: return 512 + kHalfPanel * 2;
    case PanelFormat::kQ4: return 256 + kHalfPanel * 2;
    case PanelFormat::kQ4Min: return 256 + kHalfPanel * 4;
    default: return 384 + kHalfPanel * 4;
  }
}

inline constexpr size_t PanelBytes(PanelFormat format, size_t cols) {
  switch (format) {
    case PanelFormat::kF32: return kPanel * cols * 4;
    case PanelFormat::kBf16: return kPanel * cols * 2;
    default: return 2 * (cols / kQuantBlock) * QuantBlockBytes(format);
  }
}

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_FORMATS_H_
