// The functions that exist once per instruction set, as one table. Everything above (blocking, threads, memory) is
// compiled once and calls through it.
#ifndef MAGICPIG_CPU_KERNELS_H_
#define MAGICPIG_CPU_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

#include <cstddef>

#include "formats.h"

namespace magicpig::cpu {

// Most rows a register tile of any instruction set takes.
inline constexpr int kMaxTileRows = 12;

// Activations, by InputFormat.
struct InputKernels {
  // Rows of activations that a tile takes at most.
  int tile_rows;
  // Bytes that 32 activations of a row take in a packed tile.
  size_t bytes_per_32;
  // Packs `rows` (1..tile_rows) rows of x, at distance `stride` floats, into `tile`, inputs from first to last:
  //   kF32   float [cols][rows]
  //   kBf16  where the processor multiplies bfloat16 pairs bfloat16 [cols / 2][rows][2], otherwise float [cols][rows], rounded
  //   kInt16 [cols / 32] of { fours of inputs [8][rows], 8 bytes each, as the instruction set takes them; QuantScale [rows] }
  // With `norm` (cols) each row is RMS-normalised first. `scratch` has tile_rows * cols floats.
  void (*pack)(const float* x, size_t stride, int rows, size_t cols, const float* norm, float epsilon, float* scratch,
               void* tile);
  // The processor's ceiling: multiply-adds from registers, as products do them. Returns the operations done (a multiply-add
  // is two).
  uint64_t (*peak)(size_t iterations);
};

// Quantised activations are integers of at most this size: what they lose is then small beside what the weights lost, the
// sum of a block's products (32 of at most 255 times this) is an exact int32, and an integer is 256 times a signed byte plus
// another one.
inline constexpr float kMostInput = 127 * 256 + 127;

// Of a block of 32 activations of a row: x = scale q.
struct QuantScale {
  float scale;
  float scaled_total;          // scale times the sum of the q
  int32_t negative_totals[2];  // minus the sums of the first and of the last 16 q
};

// Sums of the first and of the last 16 integers of a block.
struct BlockTotals {
  int32_t first, last;
};

// A part of a packed panel: inputs first .. first + count of `cols`.
struct PanelPart {
  const std::byte* panel;
  size_t cols;
  size_t first;
  size_t count;
};

// sums (rows, kPanel) (+)= tile (rows, count) times the part of a panel (count, kPanel), k ascending, one sum per element, so
// that the bits depend neither on `rows` nor on where the inputs are cut. Starts from zero when the part is the first,
// and otherwise goes on from `sums`. `tile` is where the part's inputs begin in a packed tile.
using Multiply = void (*)(const std::byte* tile, int rows, const PanelPart& part, float* sums);

struct Kernels {
  InputKernels inputs[kInputFormats];  // by InputFormat
  Multiply multiply[kPanelFormats];    // by PanelFormat
  // Values first .. first + count of a row of a checkpoint, as float32; multiples of the type's block.
  void (*dequantize)(SourceType type, const uint8_t* row, size_t first, size_t count, float* out);
  // out[i] = values[i] in bfloat16, to nearest even.
  void (*round_to_bf16)(const float* values, size_t count, uint16_t* out);
  // Values first .. first + count of the stream of a seed (random_normal.h); multiples of 4.
  void (*random_normal)(uint64_t seed, uint64_t first, size_t count, float std, float mean, float* out);
  // out[i] = silu(sums[i]) * sums[kPanel / 2 + i] for i < count <= kPanel / 2.
  void (*swiglu)(const float* sums, size_t count, float* out);
  // log(sum of e^values[i]) and, in `largest`, the index of the largest of `count` > 0 values, the first among equals. Not a
  // number when a value is not finite.
  double (*log_sum_exp)(const float* values, size_t count, size_t* largest);
  // Rotates `heads` heads of one row in place; `table` (head_dim): cosines, then sines.
  void (*rotate)(float* row, const float* table, size_t heads, size_t head_dim);
  // The memory's ceiling: reads `bytes` (a multiple of 256) in order.
  void (*read)(const void* data, size_t bytes);
};

extern const Kernels kPortableKernels;
#if defined(MAGICPIG_X86)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512VnniKernels;
extern const Kernels kAvx512Bf16Kernels;
#endif

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_KERNELS_H_
