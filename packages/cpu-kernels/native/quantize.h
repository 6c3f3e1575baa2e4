// Weights in blocks of kQuantBlock inputs, as quantised panels hold them.
#ifndef MAGICPIG_CPU_QUANTIZE_H_
#define MAGICPIG_CPU_QUANTIZE_H_

#include <cstddef>

#include "formats.h"

namespace magicpig::cpu {

// Inputs of one output: w = scale (values - offset) + min, with the offset and range of the panel's format.
struct QuantBlock {
  uint8_t values[kQuantBlock];
  uint16_t scale;  // half
  uint16_t min;    // half; kQ4Min alone
};

// The format for weights of a checkpoint's type when `wanted` (kQ8 or kQ4) is asked for: 4-bit types stay in 4 bits, other
// quantised types go into 8 bits, and unquantised ones into what was asked for.
PanelFormat QuantisedFormat(WeightFormat wanted, SourceType type);

// The format that holds both.
PanelFormat CommonFormat(PanelFormat a, PanelFormat b);

// True when blocks of that type go into that format without rounding (Q4_K's scales, products of a half and six bits, are
// rounded to halves).
bool RepacksInto(SourceType type, PanelFormat format);

// Block `index` (32 inputs) of a row, for a type and format that repack.
void RepackBlock(SourceType type, const uint8_t* row, size_t index, PanelFormat format, QuantBlock* block);

// Rounds 32 weights into a block.
void QuantiseBlock(const float* weights, PanelFormat format, QuantBlock* block);

// The 32 weights of one output of a packed block of kHalfPanel outputs.
void DecodeBlock(const std::byte* packed, PanelFormat format, size_t lane, float* values);

// Interleaves blocks of kHalfPanel outputs as panels hold them.
void PackBlocks(const QuantBlock* blocks, size_t stride, PanelFormat format, std::byte* packed);

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_QUANTIZE_H_
