// ggml's quantised blocks, decoded to float32 exactly as ggml and its Python package `gguf` do. Layouts from ggml-common.h:
// fields are little-endian and blocks have no alignment.
#ifndef MAGICPIG_CPU_DEQUANTIZE_H_
#define MAGICPIG_CPU_DEQUANTIZE_H_

#include "float16.h"
#include "formats.h"

namespace magicpig::cpu {
namespace {

template <typename T>
inline T LoadAs(const uint8_t* p) {
  T value;
  memcpy(&value, p, sizeof value);
  return value;
}

inline float LoadF16(const uint8_t* p) { return F16ToFloat(LoadAs<uint16_t>(p)); }

// q8_0: f16 scale; 32 signed bytes.
inline void DecodeQ8_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// q4_0: f16 scale; 16 bytes, low nibbles are values 0..15 and high nibbles 16..31, both with 8 subtracted.
inline void DecodeQ4_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block[2 + i] >> 4) - 8);
  }
}

// q4_1: f16 scale, f16 minimum; nibbles as in q4_0, unsigned.
inline void DecodeQ4_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float m = LoadF16(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block[4 + i] >> 4) + m;
  }
}

// q5_0: f16 scale; 32 fifth bits, value i's at bit i; nibbles as in q4_0; 16 subtracted.
inline void DecodeQ5_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const uint32_t high = LoadAs<uint32_t>(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int low_half = (block[6 + i] & 15) | static_cast<int>(high >> i & 1) << 4;
    const int high_half = (block[6 + i] >> 4) | static_cast<int>(high >> (i + 16) & 1) << 4;
    out[i] = d * static_cast<float>(low_half - 16);
    out[i + 16] = d * static_cast<float>(high_half - 16);
  }
}

// q5_1: f16 scale, f16 minimum; fifth bits and nibbles as in q5_0, unsigned.
inline void DecodeQ5_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float m = LoadF16(block + 2);
  const uint32_t high = LoadAs<uint32_t>(block + 4);
  for (int i = 0; i < 16; ++i) {
    const int low_half = (block[8 + i] & 15) | static_cast<int>(high >> i & 1) << 4;
    const int high_half = (block[8 + i] >> 4) | static_cast<int>(high >> (i + 16) & 1) << 4;
    out[i] = d * static_cast<float>(low_half) + m;
    out[i + 16] = d * static_cast<float>(high_half) + m;
  }
}

// The 6-bit scale and minimum of sub-block i (0..7) out of the 12 packed bytes of q4_k and q5_k.
inline void ScaleAndMin(const uint8_t* packed, int i, int* scale, int* min) {
  if (i < 4) {
    *scale = packed[i] & 63;
    *min = packed[i + 4] & 63;
  } else {
    *scale = (packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4;
    *min = (packed[i + 4] >> 4) | (packed[i] >> 6) << 4;
  }
}

// q4_k: f16 scale of scales, f16 scale of minima; 12 bytes of 6-bit scales and minima of 8 sub-blocks of 32; 128 bytes,
// of each 32 the low nibbles are one sub-block and the high nibbles the next.
inline void DecodeQ4_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float dmin = LoadF16(block + 2);
  for (int i = 0; i < 8; ++i) {
    int scale, min;
    ScaleAndMin(block + 4, i, &scale, &min);
    const float ds = d * static_cast<float>(scale);
    const float dm = dmin * static_cast<float>(min);
    const uint8_t* q = block + 16 + i / 2 * 32;
    const int shift = i % 2 * 4;
    for (int j = 0; j < 32; ++j) out[i * 32 + j] = ds * static_cast<float>(q[j] >> shift & 15) - dm;
  }
}

// q5_k: as q4_k, with 32 bytes of fifth bits before the nibbles: bit i of byte j belongs to value j of sub-block i.
inline void DecodeQ5_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  const float dmin = LoadF16(block + 2);
  for (int i = 0; i < 8; ++i) {
    int scale, min;
    ScaleAndMin(block + 4, i, &scale, &min);
    const float ds = d * static_cast<float>(scale);
    const float dm = dmin * static_cast<float>(min);
    const uint8_t* high = block + 16;
    const uint8_t* q = block + 48 + i / 2 * 32;
    const int shift = i % 2 * 4;
    for (int j = 0; j < 32; ++j) {
      out[i * 32 + j] = ds * static_cast<float>((q[j] >> shift & 15) | (high[j] >> i & 1) << 4) - dm;
    }
  }
}

// q6_k: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales of 16 values each, f16 scale of scales;
// 32 subtracted. Each half of 128 values takes 64 bytes of nibbles and 32 of pairs: quarter c (32 values) has the nibbles of
// bytes 32 (c % 2) .. in their low (c < 2) or high half, and bits 2c, 2c + 1 of the pairs.
inline void DecodeQ6_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* low = block + half * 64;
    const uint8_t* high = block + 128 + half * 32;
    for (int c = 0; c < 4; ++c) {
      const uint8_t* scales = block + 192 + half * 8 + c * 2;
      int8_t q[32];
      for (int j = 0; j < 32; ++j) {
        const int nibble = low[c % 2 * 32 + j] >> (c / 2 * 4) & 15;
        q[j] = static_cast<int8_t>((nibble | (high[j] >> (2 * c) & 3) << 4) - 32);
      }
      for (int part = 0; part < 2; ++part) {
        const float scale = d * static_cast<float>(static_cast<int8_t>(scales[part]));
        float* to = out + half * 128 + c * 32 + part * 16;
        for (int j = 0; j < 16; ++j) to[j] = scale * static_cast<float>(q[part * 16 + j]);
      }
    }
  }
}

// Values first .. first + count of a row. first and count are multiples of the type's block.
inline void DequantizeRow(SourceType type, const uint8_t* row, size_t first, size_t count, float* out) {
  const BlockLayout layout = kBlockLayouts[static_cast<int>(type)];
  const uint8_t* p = row + first / layout.values * layout.bytes;
  const auto each_block = [&](auto decode) {
    for (size_t i = 0; i < count; i += layout.values, p += layout.bytes) decode(p, out + i);
  };
  switch (type) {
    case SourceType::kF32:
      memcpy(out, p, count * sizeof(float));
      break;
    case SourceType::kF16:
      for (size_t i = 0; i < count; ++i) out[i] = LoadF16(p + 2 * i);
      break;
    case SourceType::kBf16:
      for (size_t i = 0; i < count; ++i) out[i] = Bf16ToFloat(LoadAs<uint16_t>(p + 2 * i));
      break;
    case SourceType::kQ8_0: each_block(DecodeQ8_0); break;
    case SourceType::kQ4_0: each_block(DecodeQ4_0); break;
    case SourceType::kQ4_1: each_block(DecodeQ4_1); break;
    case SourceType::kQ5_0: each_block(DecodeQ5_0); break;
    case SourceType::kQ5_1: each_block(DecodeQ5_1); break;
    case SourceType::kQ4_K: each_block(DecodeQ4_K); break;
    case SourceType::kQ5_K: each_block(DecodeQ5_K); break;
    case SourceType::kQ6_K: each_block(DecodeQ6_K); break;
  }
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_DEQUANTIZE_H_
