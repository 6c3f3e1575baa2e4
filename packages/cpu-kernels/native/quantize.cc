#include "quantize.h"

#include <algorithm>

#include "dequantize.h"

namespace magicpig::cpu {
namespace {

constexpr uint64_t kLowNibbles = 0x0f0f0f0f0f0f0f0f;
constexpr uint32_t kLowPairs = 0x03030303;

uint32_t WordAt(const uint8_t* bytes, size_t index) { return LoadAs<uint32_t>(bytes + 4 * index); }

// Nibbles of eight bytes, in the low halves of which they are, the second four beside the first: see kQ4 in formats.h.
uint32_t Beside(uint64_t nibbles) { return static_cast<uint32_t>(nibbles | nibbles >> 28); }

// Nibbles of 32 values, each in the low or the high half of a byte of its own.
void NibblesOfBytes(const uint8_t* bytes, int half, uint32_t* words) {
  for (size_t i = 0; i < 4; ++i) words[i] = Beside(LoadAs<uint64_t>(bytes + 8 * i) >> (4 * half) & kLowNibbles);
}

// Nibbles of ggml's blocks of 32: in 16 bytes, values 0..15 in the low halves and 16..31 in the high ones.
void NibblesOfHalves(const uint8_t* bytes, uint32_t* words) {
  for (size_t i = 0; i < 2; ++i) {
    const uint64_t both = LoadAs<uint64_t>(bytes + 8 * i);
    words[i] = Beside(both & kLowNibbles);
    words[i + 2] = Beside(both >> 4 & kLowNibbles);
  }
}

// One half of `scale` that values can be divided by: zero stays zero.
float Inverse(float scale) { return scale != 0 ? 1.0f / scale : 0; }

// Values of 8 or 4 bits.
void WordsOfValues(const uint8_t* values, PanelFormat format, uint32_t* words) {
  if (format == PanelFormat::kQ8) {
    memcpy(words, values, kQuantBlock);
  } else {
    NibblesOfBytes(values, 0, words);
  }
}

// values[i] = (weights[i] - base) inverse + offset, rounded to nearest even, between 0 and `most`.
void Round(const float* weights, float base, float inverse, float offset, float most, uint8_t* values) {
  constexpr float kRound = 0x1.8p23f;  // adding it leaves a small number, rounded, in the low bits
  for (size_t i = 0; i < kQuantBlock; ++i) {
    const float value = (weights[i] - base) * inverse + offset;
    const float positive = value > 0 ? value : 0;
    const float clamped = positive < most ? positive : most;
    values[i] = static_cast<uint8_t>(BitsOf(clamped + kRound));
  }
}

struct Range {
  float least, most;
};

Range RangeOf(const float* weights) {
  constexpr size_t kLanes = 8;  // separate ranges, which the compiler puts into vectors
  float least[kLanes], most[kLanes];
  for (size_t lane = 0; lane < kLanes; ++lane) least[lane] = most[lane] = weights[lane];
  for (size_t i = kLanes; i < kQuantBlock; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      least[lane] = weights[i + lane] < least[lane] ? weights[i + lane] : least[lane];
      most[lane] = weights[i + lane] > most[lane] ? weights[i + lane] : most[lane];
    }
  }
  return {*std::min_element(least, least + kLanes), *std::max_element(most, most + kLanes)};
}

// Block `index` of a row of each type, its values kept.

void RepackQ8_0(const uint8_t* row, size_t index, QuantBlock* block) {
  const uint8_t* p = row + index * 34;
  block->halves[0] = LoadAs<uint16_t>(p);
  for (size_t i = 0; i < 8; ++i) block->words[i] = WordAt(p + 2, i) ^ 0x80808080u;  // plus 128
}

void RepackQ4_0(const uint8_t* row, size_t index, QuantBlock* block) {
  const uint8_t* p = row + index * 18;
  block->halves[0] = LoadAs<uint16_t>(p);
  block->halves[1] = FloatToF16(-8 * LoadF16(p));  // the minimum, for kQ4Min
  NibblesOfHalves(p + 2, block->words);
}

void RepackQ4_0InBytes(const uint8_t* row, size_t index, QuantBlock* block) {
  const uint8_t* p = row + index * 18;
  block->halves[0] = LoadAs<uint16_t>(p);
  constexpr uint32_t kNibbles = static_cast<uint32_t>(kLowNibbles);
  for (size_t i = 0; i < 4; ++i) {
    block->words[i] = (WordAt(p + 2, i) & kNibbles) + 0x78787878u;  // plus 120
    block->words[i + 4] = (WordAt(p + 2, i) >> 4 & kNibbles) + 0x78787878u;
  }
}

void RepackQ4_1(const uint8_t* row, size_t index, QuantBlock* block) {
  const uint8_t* p = row + index * 20;
  block->halves[0] = LoadAs<uint16_t>(p);
  block->halves[1] = LoadAs<uint16_t>(p + 2);
  NibblesOfHalves(p + 4, block->words);
}

void RepackQ4_K(const uint8_t* row, size_t index, QuantBlock* block) {
  const uint8_t* p = row + index / 8 * 144;
  const int part = static_cast<int>(index % 8);
  int scale, min;
  ScaleAndMin(p + 4, part, &scale, &min);
  block->halves[0] = FloatToF16(LoadF16(p) * static_cast<float>(scale));
  block->halves[1] = FloatToF16(-LoadF16(p + 2) * static_cast<float>(min));
  NibblesOfBytes(p + 16 + part / 2 * 32, part % 2, block->words);
}

void RepackQ6_K(const uint8_t* row, size_t index, QuantBlock* block) {  // see DecodeQ6_K
  const uint8_t* p = row + index / 8 * 210;
  const int half = static_cast<int>(index % 8 / 4), quarter = static_cast<int>(index % 4);
  const uint8_t* scales = p + 192 + half * 8 + quarter * 2;
  for (int i = 0; i < 2; ++i) {
    block->halves[i] = FloatToF16(LoadF16(p + 208) * static_cast<float>(static_cast<int8_t>(scales[i])));
  }
  NibblesOfBytes(p + half * 64 + quarter % 2 * 32, quarter / 2, block->words);
  const uint8_t* pairs = p + 128 + half * 32;
  for (size_t i = 0; i < 2; ++i) {
    uint32_t word = 0;
    for (size_t j = 0; j < 4; ++j) word |= (WordAt(pairs, 4 * i + j) >> (2 * quarter) & kLowPairs) << (2 * j);
    block->words[4 + i] = word;
  }
}

// `kWords` words and `kHalves` halves of each of kHalfPanel blocks, interleaved.
template <size_t kWords, size_t kHalves>
void Interleave(const QuantBlock* blocks, size_t stride, std::byte* packed) {
  uint32_t* words = reinterpret_cast<uint32_t*>(packed);
  uint16_t* halves = reinterpret_cast<uint16_t*>(words + kWords * kHalfPanel);
  for (size_t lane = 0; lane < kHalfPanel; ++lane) {
    const QuantBlock& block = blocks[lane * stride];
    for (size_t i = 0; i < kWords; ++i) words[i * kHalfPanel + lane] = block.words[i];
    for (size_t i = 0; i < kHalves; ++i) halves[i * kHalfPanel + lane] = block.halves[i];
  }
}

}  // namespace

PanelFormat QuantisedFormat(WeightFormat wanted, SourceType type) {
  switch (type) {
    case SourceType::kQ4_0: return PanelFormat::kQ4;
    case SourceType::kQ4_1:
    case SourceType::kQ4_K: return PanelFormat::kQ4Min;
    case SourceType::kQ6_K: return PanelFormat::kQ6;
    case SourceType::kF32:
    case SourceType::kF16:
    case SourceType::kBf16: return wanted == WeightFormat::kQ4 ? PanelFormat::kQ4Min : PanelFormat::kQ8;
    default: return PanelFormat::kQ8;
  }
}

PanelFormat CommonFormat(PanelFormat a, PanelFormat b) {
  if (a == b) return a;
  const auto four_bits = [](PanelFormat format) { return format == PanelFormat::kQ4 || format == PanelFormat::kQ4Min; };
  return four_bits(a) && four_bits(b) ? PanelFormat::kQ4Min : PanelFormat::kQ8;
}

bool RepacksInto(SourceType type, PanelFormat format) {
  switch (format) {
    case PanelFormat::kQ8: return type == SourceType::kQ8_0 || type == SourceType::kQ4_0;
    case PanelFormat::kQ4: return type == SourceType::kQ4_0;
    case PanelFormat::kQ4Min: return type == SourceType::kQ4_0 || type == SourceType::kQ4_1 || type == SourceType::kQ4_K;
    case PanelFormat::kQ6: return type == SourceType::kQ6_K;
    default: return false;
  }
}

void RepackRow(SourceType type, const uint8_t* row, size_t first, size_t count, PanelFormat format, QuantBlock* blocks) {
  const auto each = [&](auto repack) {
    for (size_t i = 0; i < count; ++i) repack(row, first + i, &blocks[i]);
  };
  switch (type) {
    case SourceType::kQ8_0: each(RepackQ8_0); break;
    case SourceType::kQ4_0:
      if (format == PanelFormat::kQ8) {
        each(RepackQ4_0InBytes);
      } else {
        each(RepackQ4_0);
      }
      break;
    case SourceType::kQ4_1: each(RepackQ4_1); break;
    case SourceType::kQ4_K: each(RepackQ4_K); break;
    default: each(RepackQ6_K); break;
  }
}

void QuantiseBlock(const float* weights, PanelFormat format, QuantBlock* block) {
  const Range range = RangeOf(weights);
  uint8_t values[kQuantBlock];
  if (format == PanelFormat::kQ4Min) {
    block->halves[0] = FloatToF16((range.most - range.least) / 15);
    block->halves[1] = FloatToF16(range.least);
    Round(weights, F16ToFloat(block->halves[1]), Inverse(F16ToFloat(block->halves[0])), 0, 15, values);
  } else {
    const float offset = format == PanelFormat::kQ8 ? 128 : 8;
    block->halves[0] = FloatToF16(std::max(-range.least, range.most) / (offset - 1));
    Round(weights, 0, Inverse(F16ToFloat(block->halves[0])), offset, 2 * offset - 1, values);
  }
  WordsOfValues(values, format, block->words);
}

void PackBlocks(const QuantBlock* blocks, size_t stride, PanelFormat format, std::byte* packed) {
  switch (format) {
    case PanelFormat::kQ8: Interleave<8, 1>(blocks, stride, packed); break;
    case PanelFormat::kQ4: Interleave<4, 1>(blocks, stride, packed); break;
    case PanelFormat::kQ4Min: Interleave<4, 2>(blocks, stride, packed); break;
    default: Interleave<6, 2>(blocks, stride, packed); break;
  }
}

void DecodeBlock(const std::byte* packed, PanelFormat format, size_t lane, float* values) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(packed);
  const uint8_t* pairs = bytes + 256;  // kQ6
  const uint8_t* halves = bytes + (format == PanelFormat::kQ8 ? 512 : format == PanelFormat::kQ6 ? 384 : 256) + 2 * lane;
  const int offset =
      format == PanelFormat::kQ8 ? 128 : format == PanelFormat::kQ6 ? 32 : format == PanelFormat::kQ4 ? 8 : 0;
  // Byte of value i in vector `vector` of bytes.
  const auto byte = [&](const uint8_t* from, size_t vector, size_t i) {
    return from[(vector * kHalfPanel + lane) * 4 + i % 4];
  };
  for (size_t i = 0; i < kQuantBlock; ++i) {
    const size_t group = i / 4;
    int q = 0;
    if (format == PanelFormat::kQ8) {
      q = byte(bytes, group, i);
    } else {
      q = byte(bytes, group / 2, i) >> (group % 2 * 4) & 15;
      if (format == PanelFormat::kQ6) q |= (byte(pairs, group / 4, i) >> (group % 4 * 2) & 3) << 4;
    }
    const float scale = LoadF16(halves + (format == PanelFormat::kQ6 ? i / 16 * 2 * kHalfPanel : 0));
    const float value = scale * static_cast<float>(q - offset);
    // Adding zero would lose the sign of a zero.
    values[i] = format == PanelFormat::kQ4Min ? value + LoadF16(halves + 2 * kHalfPanel) : value;
  }
}

}  // namespace magicpig::cpu
