#include "quantize.h"

#include <algorithm>

#include "dequantize.h"

namespace magicpig::cpu {
namespace {

// Nibbles of ggml's blocks of 32: low halves first.
void LoadNibbles(const uint8_t* bytes, uint8_t* values) {
  for (int i = 0; i < 16; ++i) {
    values[i] = bytes[i] & 15;
    values[i + 16] = bytes[i] >> 4;
  }
}

// One half of `scale` that values can be divided by: zero stays zero.
float Inverse(float scale) { return scale != 0 ? 1.0f / scale : 0; }

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

}  // namespace

PanelFormat QuantisedFormat(WeightFormat wanted, SourceType type) {
  switch (type) {
    case SourceType::kQ4_0: return PanelFormat::kQ4;
    case SourceType::kQ4_1:
    case SourceType::kQ4_K: return PanelFormat::kQ4Min;
    case SourceType::kF32:
    case SourceType::kF16:
    case SourceType::kBf16: return wanted == WeightFormat::kQ4 ? PanelFormat::kQ4Min : PanelFormat::kQ8;
    default: return PanelFormat::kQ8;
  }
}

PanelFormat CommonFormat(PanelFormat a, PanelFormat b) {
  if (a == b) return a;
  return a == PanelFormat::kQ8 || b == PanelFormat::kQ8 ? PanelFormat::kQ8 : PanelFormat::kQ4Min;
}

bool RepacksInto(SourceType type, PanelFormat format) {
  switch (format) {
    case PanelFormat::kQ8: return type == SourceType::kQ8_0 || type == SourceType::kQ4_0;
    case PanelFormat::kQ4: return type == SourceType::kQ4_0;
    case PanelFormat::kQ4Min: return type == SourceType::kQ4_0 || type == SourceType::kQ4_1 || type == SourceType::kQ4_K;
    default: return false;
  }
}

void RepackBlock(SourceType type, const uint8_t* row, size_t index, PanelFormat format, QuantBlock* block) {
  block->min = 0;
  switch (type) {
    case SourceType::kQ8_0: {
      const uint8_t* p = row + index * 34;
      block->scale = LoadAs<uint16_t>(p);
      for (size_t i = 0; i < kQuantBlock; ++i) block->values[i] = p[2 + i] ^ 128;  // plus 128
      break;
    }
    case SourceType::kQ4_0: {
      const uint8_t* p = row + index * 18;
      block->scale = LoadAs<uint16_t>(p);
      LoadNibbles(p + 2, block->values);
      if (format == PanelFormat::kQ8) {
        for (uint8_t& value : block->values) value += 120;
      } else if (format == PanelFormat::kQ4Min) {
        block->min = FloatToF16(-8 * LoadF16(p));
      }
      break;
    }
    case SourceType::kQ4_1: {
      const uint8_t* p = row + index * 20;
      block->scale = LoadAs<uint16_t>(p);
      block->min = LoadAs<uint16_t>(p + 2);
      LoadNibbles(p + 4, block->values);
      break;
    }
    default: {  // kQ4_K
      const uint8_t* p = row + index / 8 * 144;
      const int part = static_cast<int>(index % 8);
      int scale, min;
      ScaleAndMin(p + 4, part, &scale, &min);
      block->scale = FloatToF16(LoadF16(p) * static_cast<float>(scale));
      block->min = FloatToF16(-LoadF16(p + 2) * static_cast<float>(min));
      const uint8_t* q = p + 16 + part / 2 * 32;
      for (size_t i = 0; i < kQuantBlock; ++i) block->values[i] = q[i] >> (part % 2 * 4) & 15;
      break;
    }
  }
}

void QuantiseBlock(const float* weights, PanelFormat format, QuantBlock* block) {
  const Range range = RangeOf(weights);
  block->min = 0;
  if (format == PanelFormat::kQ4Min) {
    block->scale = FloatToF16((range.most - range.least) / 15);
    block->min = FloatToF16(range.least);
    Round(weights, F16ToFloat(block->min), Inverse(F16ToFloat(block->scale)), 0, 15, block->values);
    return;
  }
  const float offset = format == PanelFormat::kQ8 ? 128 : 8;
  block->scale = FloatToF16(std::max(-range.least, range.most) / (offset - 1));
  Round(weights, 0, Inverse(F16ToFloat(block->scale)), offset, 2 * offset - 1, block->values);
}

void PackBlocks(const QuantBlock* blocks, size_t stride, PanelFormat format, std::byte* packed) {
  uint8_t* out = reinterpret_cast<uint8_t*>(packed);
  if (format == PanelFormat::kQ8) {
    for (size_t group = 0; group < 8; ++group) {
      for (size_t lane = 0; lane < kHalfPanel; ++lane, out += 4) memcpy(out, blocks[lane * stride].values + 4 * group, 4);
    }
  } else {
    for (size_t pair = 0; pair < 4; ++pair) {
      for (size_t lane = 0; lane < kHalfPanel; ++lane) {
        const uint8_t* values = blocks[lane * stride].values + 8 * pair;
        for (size_t i = 0; i < 4; ++i) *out++ = static_cast<uint8_t>(values[i] | values[4 + i] << 4);
      }
    }
  }
  for (size_t lane = 0; lane < kHalfPanel; ++lane, out += 2) memcpy(out, &blocks[lane * stride].scale, 2);
  if (format == PanelFormat::kQ4Min) {
    for (size_t lane = 0; lane < kHalfPanel; ++lane, out += 2) memcpy(out, &blocks[lane * stride].min, 2);
  }
}

void DecodeBlock(const std::byte* packed, PanelFormat format, size_t lane, float* values) {
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(packed);
  const bool nibbles = format != PanelFormat::kQ8;
  const uint8_t* scales = bytes + (nibbles ? 256 : 512);
  const float scale = LoadF16(scales + 2 * lane);
  const float min = format == PanelFormat::kQ4Min ? LoadF16(scales + 2 * kHalfPanel + 2 * lane) : 0;
  const int offset = format == PanelFormat::kQ8 ? 128 : format == PanelFormat::kQ4 ? 8 : 0;
  for (size_t i = 0; i < kQuantBlock; ++i) {
    const size_t group = i / 4;
    const uint8_t byte = bytes[((nibbles ? group / 2 : group) * kHalfPanel + lane) * 4 + i % 4];
    const int q = nibbles ? byte >> (group % 2 * 4) & 15 : byte;
    const float value = scale * static_cast<float>(q - offset);
    values[i] = format == PanelFormat::kQ4Min ? value + min : value;  // adding zero would lose the sign of a zero
  }
}

}  // namespace magicpig::cpu
