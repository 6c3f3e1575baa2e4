// Weight matrices on the device: bf16, or blocks of 32 weights in 8 or 4 bits; packed from the formats of checkpoints, and unpacked
// where a row is wanted as numbers (embeddings) or a product has many rows.
#ifndef MAGICPIG_KERNELS_WEIGHTS_H_
#define MAGICPIG_KERNELS_WEIGHTS_H_

#include "../device/half.h"

namespace magicpig {

// kF32 is for vectors (norms, biases): products do not take it.
enum class WeightKind : int { kBf16 = 0, kQ8 = 1, kQ4 = 2, kF32 = 3 };
__host__ __device__ constexpr bool in_blocks(WeightKind kind) { return kind == WeightKind::kQ8 || kind == WeightKind::kQ4; }
constexpr int kWeightBlock = 32;
// Blocks lie in pairs, so that the four lanes that read a row of a quantised matrix together take whole sectors of memory: the last
// pair of a row is filled with a block of zeros where its number of blocks is odd.
constexpr int kWeightPair = 2 * kWeightBlock;
constexpr int kQ8Offset = 128;

__host__ __device__ constexpr int weight_pairs(int columns) { return (columns + kWeightPair - 1) / kWeightPair; }

// Place of weight i (0..63) of a pair: lane m of four takes weights 8 m .. 8 m + 7 of both blocks, the first block's first.
__host__ __device__ constexpr int pair_place(int i) { return i % kWeightBlock / 8 * 16 + i / kWeightBlock * 8 + i % 8; }
// Bit of the nibble of weight e (0..7) in a word of eight: neighbours are 16 bits apart, as the halves of a register are.
__host__ __device__ constexpr int nibble_bit(int e) { return e / 2 * 4 + e % 2 * 16; }

// A matrix [rows][columns]:
//   kF32   values f32 [rows][columns], and
//   kBf16  values bf16 [rows][columns]; scales unused; columns a multiple of 8
//   kQ8    values u8 [rows][pairs][64] by pair_place: w = scale (q - 128); scales half [rows][pairs][2]
//   kQ4    values u32 [rows][pairs][8], word p of weights with pair_place / 8 = p: w = scale q + min; scales {half scale, half min}
//          [rows][pairs][2]; columns a multiple of 32 in both
struct WeightView {
  WeightKind kind;
  void* values;
  uint16_t* scales;
};

inline WeightView bf16_weight(const bf16* values) { return {WeightKind::kBf16, const_cast<bf16*>(values), nullptr}; }

__host__ __device__ constexpr int64_t weight_value_bytes(WeightKind kind, int columns) {
  switch (kind) {
    case WeightKind::kF32: return int64_t{4} * columns;
    case WeightKind::kBf16: return int64_t{2} * columns;
    case WeightKind::kQ8: return int64_t{weight_pairs(columns)} * 64;
    default: return int64_t{weight_pairs(columns)} * 32;
  }
}
__host__ __device__ constexpr int64_t weight_scale_bytes(WeightKind kind, int columns) {
  return in_blocks(kind) ? int64_t{weight_pairs(columns)} * (kind == WeightKind::kQ8 ? 4 : 8) : 0;
}

// Element formats of checkpoints; those from kQ8_0 on are ggml's blocks, little-endian and unaligned.
enum class SourceType : int { kF32, kF16, kBf16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K };
struct SourceBlock {
  int values, bytes;
};
__host__ __device__ constexpr SourceBlock source_block(SourceType type) {
  switch (type) {
    case SourceType::kF32: return {1, 4};
    case SourceType::kF16:
    case SourceType::kBf16: return {1, 2};
    case SourceType::kQ8_0: return {32, 34};
    case SourceType::kQ4_0: return {32, 18};
    case SourceType::kQ4_1: return {32, 20};
    case SourceType::kQ5_0: return {32, 22};
    case SourceType::kQ5_1: return {32, 24};
    case SourceType::kQ4_K: return {256, 144};
    case SourceType::kQ5_K: return {256, 176};
    case SourceType::kQ6_K: return {256, 210};
  }
  return {1, 1};
}

// Rows first_row .. first_row + rows of `weight` from source [rows][columns] in `type`'s encoding, 16-byte aligned. Codes of ggml's
// blocks are kept where the kind holds them (q8_0 and q4_0 in kQ8; q4_0, q4_1 and q4_k in kQ4); all else is rounded: a block of kQ8
// symmetrically, with its largest magnitude at 127; one of kQ4 with its least value at 0 and its largest at 15. The same rules, and
// the same codes, as @magicpig/cpu-kernels.
cudaError_t pack_weight(cudaStream_t stream, const WeightView& weight, int64_t first_row, const void* source, SourceType type, int rows,
                        int columns);

// out [rows][columns], row indices[r] of a matrix of `matrix_rows` rows (row r when indices is null); as float32, or as bf16 when
// out_f32 is null. An index outside gives a row of NaN.
cudaError_t unpack_weight(cudaStream_t stream, float* out_f32, bf16* out_bf16, const WeightView& weight, const int32_t* indices, int rows,
                          int columns, int matrix_rows);

}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_WEIGHTS_H_
