// Weights in blocks of kQuantBlock inputs, as quantised panels hold them.
#ifndef MAGICPIG_CPU_QUANTIZE_H_
#define MAGICPIG_CPU_QUANTIZE_H_

#include <cstddef>

#include "formats.h"

namespace magicpig::cpu {

// The weights of one output for kQuantBlock inputs, as a panel of some format interleaves them with those of other outputs.
struct QuantBlock {
  // What each vector of bytes of the packed block has for this output: eight groups of four values (kQ8), or four words of
  // nibbles, and two of bit pairs (kQ6).
  uint32_t words[8];
  // Half floats: the scale; the scale and the minimum (kQ4Min); both scales (kQ6).
  uint16_t halves[2];
};

// The format for weights of a checkpoint's type when `wanted` (kQ8 or kQ4) is asked for: types of 4, 6 and 8 bits keep them,
// those of 5 go into 8, and unquantised ones into what was asked for.
PanelFormat QuantisedFormat(WeightFormat wanted, SourceType type);

// The format that holds both.
PanelFormat CommonFormat(PanelFormat a, PanelFormat b);

// True when blocks of that type go into that format without rounding (but the scales of Q4_K and Q6_K, products of a half and
// an integer, are rounded to halves).
bool RepacksInto(SourceType type, PanelFormat format);

// Blocks first .. first + count (of 32 inputs) of a row, for a type and format that repack.
void RepackRow(SourceType type, const uint8_t* row, size_t first, size_t count, PanelFormat format, QuantBlock* blocks);

// Rounds 32 weights into a block.
void QuantiseBlock(const float* weights, PanelFormat format, QuantBlock* block);

// The 32 weights of one output of a packed block of kHalfPanel outputs.
void DecodeBlock(const std::byte* packed, PanelFormat format, size_t lane, float* values);

// Interleaves blocks of kHalfPanel outputs as panels hold them.
void PackBlocks(const QuantBlock* blocks, size_t stride, PanelFormat format, std::byte* packed);

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_QUANTIZE_H_
