#include "weights.h"

#include "../device/launch.h"
#include "../device/rounded.h"  // multiply, sum_of

namespace magicpig {
namespace {

constexpr int kThreads = 128;
constexpr float kNaN = __builtin_nanf("");

__device__ __forceinline__ uint32_t load16(const uint8_t* p) { return p[0] | static_cast<uint32_t>(p[1]) << 8; }
__device__ __forceinline__ uint32_t load32(const uint8_t* p) { return load16(p) | load16(p + 2) << 16; }
__device__ __forceinline__ float load_half(const uint8_t* p) { return half_to_float(static_cast<uint16_t>(load16(p))); }

// 32 weights of a checkpoint's blocks: w_i = scale[i / 16] code_i + min[i / 16]. All products are exact in float32.
struct Codes {
  uint8_t code[kWeightBlock];
  float scale[2], min[2];
};

__device__ void set_scale(Codes& codes, float scale, float min) {
  codes.scale[0] = codes.scale[1] = scale;
  codes.min[0] = codes.min[1] = min;
}

// Low nibbles first, and bit i of `high` above the nibble of weight i.
__device__ void set_nibbles(Codes& codes, const uint8_t* nibbles, uint32_t high) {
  for (int i = 0; i < 16; ++i) {
    codes.code[i] = static_cast<uint8_t>((nibbles[i] & 15) | (high >> i & 1u) << 4);
    codes.code[i + 16] = static_cast<uint8_t>(nibbles[i] >> 4 | (high >> (i + 16) & 1u) << 4);
  }
}

// Six-bit scale and minimum of sub-block i (0..7) out of the 12 bytes of q4_k and q5_k.
__device__ uint2 sub_block_scales(const uint8_t* packed, int i) {
  if (i < 4) return make_uint2(packed[i] & 63u, packed[i + 4] & 63u);
  return make_uint2((packed[i + 4] & 15u) | (packed[i - 4] >> 6 << 4), packed[i + 4] >> 4 | (packed[i] >> 6 << 4));
}

// Block `index` of a row.
__device__ void load_codes(Codes& codes, SourceType type, const uint8_t* row, int index) {
  const SourceBlock layout = source_block(type);
  const uint8_t* p = row + static_cast<int64_t>(index * kWeightBlock / layout.values) * layout.bytes;
  const float d = load_half(type == SourceType::kQ6_K ? p + 208 : p);
  const int part = index % 8;  // of the blocks of 256
  switch (type) {
    case SourceType::kQ8_0:
      set_scale(codes, d, -128 * d);
      for (int i = 0; i < kWeightBlock; ++i) codes.code[i] = p[2 + i] ^ 128;  // plus 128
      break;
    case SourceType::kQ4_0:
      set_scale(codes, d, -8 * d);
      set_nibbles(codes, p + 2, 0);
      break;
    case SourceType::kQ4_1:
      set_scale(codes, d, load_half(p + 2));
      set_nibbles(codes, p + 4, 0);
      break;
    case SourceType::kQ5_0:
      set_scale(codes, d, -16 * d);
      set_nibbles(codes, p + 6, load32(p + 2));
      break;
    case SourceType::kQ5_1:
      set_scale(codes, d, load_half(p + 2));
      set_nibbles(codes, p + 8, load32(p + 4));
      break;
    case SourceType::kQ4_K:
    case SourceType::kQ5_K: {
      const bool five = type == SourceType::kQ5_K;
      const uint2 scales = sub_block_scales(p + 4, part);
      set_scale(codes, d * static_cast<float>(scales.x), -load_half(p + 2) * static_cast<float>(scales.y));
      const uint8_t* nibbles = p + (five ? 48 : 16) + part / 2 * 32;
      for (int i = 0; i < kWeightBlock; ++i) {
        const int fifth = five ? p[16 + i] >> part & 1 : 0;
        codes.code[i] = static_cast<uint8_t>((nibbles[i] >> (part % 2 * 4) & 15) | fifth << 4);
      }
      break;
    }
    default: {  // kQ6_K: quarter c of each half of 128
      const int half = part / 4, c = part % 4;
      for (int i = 0; i < kWeightBlock; ++i) {
        const int low = p[half * 64 + c % 2 * 32 + i] >> (c / 2 * 4) & 15, high = p[128 + half * 32 + i] >> (2 * c) & 3;
        codes.code[i] = static_cast<uint8_t>(low | high << 4);
      }
      for (int i = 0; i < 2; ++i) {
        codes.scale[i] = d * static_cast<float>(static_cast<int8_t>(p[192 + half * 8 + c * 2 + i]));
        codes.min[i] = -32 * codes.scale[i];
      }
      break;
    }
  }
}

__device__ float load_value(SourceType type, const uint8_t* row, int column) {
  switch (type) {
    case SourceType::kF32: return bits_to_float(load32(row + 4 * column));
    case SourceType::kF16: return load_half(row + 2 * column);
    default: return bits_to_float(load16(row + 2 * column) << 16);
  }
}

// Codes as they are go into kQ8 with this added, into kQ4 as they are; -1 where they do not fit.
__device__ int kept_offset(SourceType type, WeightKind kind) {
  if (kind == WeightKind::kQ8) return type == SourceType::kQ8_0 ? 0 : type == SourceType::kQ4_0 ? kQ8Offset - 8 : -1;
  return type == SourceType::kQ4_0 || type == SourceType::kQ4_1 || type == SourceType::kQ4_K ? 0 : -1;
}

// value * inverse + offset, rounded to nearest even, from 0 to `most`.
__device__ uint8_t round_code(float value, float inverse, float offset, float most) {
  const float scaled = sum_of(multiply(value, inverse), offset);
  const float clamped = fminf(fmaxf(scaled, 0.0f), most);
  return static_cast<uint8_t>(float_to_bits(sum_of(clamped, 0x1.8p23f)) & 255u);
}

// One thread one block of one row.
__global__ void __launch_bounds__(kThreads)
    pack_kernel(WeightView weight, int64_t first_row, const uint8_t* source, SourceType type, int rows, int columns) {
  const int pairs = weight_pairs(columns);
  const int blocks = in_blocks(weight.kind) ? 2 * pairs : (columns + kWeightBlock - 1) / kWeightBlock;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(rows) * blocks) return;
  const int64_t local = i / blocks, row = first_row + local;
  const int block = static_cast<int>(i % blocks);
  const SourceBlock layout = source_block(type);
  const uint8_t* from = source + local * (columns / layout.values) * layout.bytes;
  const int first = block * kWeightBlock;
  const int count = columns - first < kWeightBlock ? (columns > first ? columns - first : 0) : kWeightBlock;

  Codes codes;
  float values[kWeightBlock];
  int offset = -1;
  if (layout.values == 1) {
    for (int j = 0; j < kWeightBlock; ++j) values[j] = j < count ? load_value(type, from, first + j) : 0.0f;
  } else if (count == 0) {
    for (int j = 0; j < kWeightBlock; ++j) values[j] = 0.0f;
  } else {
    load_codes(codes, type, from, block);
    for (int j = 0; j < kWeightBlock; ++j) {
      values[j] = sum_of(multiply(codes.scale[j / 16], static_cast<float>(codes.code[j])), codes.min[j / 16]);
    }
    offset = kept_offset(type, weight.kind);
  }

  if (weight.kind == WeightKind::kF32) {
    float* to = static_cast<float*>(weight.values) + row * columns + first;
    for (int j = 0; j < count; ++j) to[j] = values[j];
    return;
  }
  if (weight.kind == WeightKind::kBf16) {
    bf16* to = static_cast<bf16*>(weight.values) + row * columns + first;
    for (int j = 0; j < count; ++j) to[j] = to_bf16(values[j]);
    return;
  }
  float scale = codes.scale[0], min = codes.min[0];
  if (offset < 0) {
    float least = values[0], most = values[0];
    for (int j = 1; j < kWeightBlock; ++j) {
      least = fminf(least, values[j]);
      most = fmaxf(most, values[j]);
    }
    const bool eight = weight.kind == WeightKind::kQ8;
    scale = half_to_float(float_to_half(eight ? fmaxf(-least, most) / 127.0f : (most - least) / 15.0f));
    min = eight ? 0.0f : half_to_float(float_to_half(least));
    const float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int j = 0; j < kWeightBlock; ++j) {
      codes.code[j] = eight ? round_code(values[j], inverse, kQ8Offset, 255.0f) : round_code(sum_of(values[j], -min), inverse, 0.0f, 15.0f);
    }
    offset = 0;
  }
  const int64_t pair = row * pairs + block / 2;
  uint16_t* scales = weight.scales + (2 * pair + block % 2) * (weight.kind == WeightKind::kQ8 ? 1 : 2);
  scales[0] = float_to_half(scale);
  if (weight.kind == WeightKind::kQ8) {
    uint8_t* to = static_cast<uint8_t*>(weight.values) + pair * kWeightPair;
    for (int j = 0; j < kWeightBlock; ++j) to[pair_place(block % 2 * kWeightBlock + j)] = static_cast<uint8_t>(codes.code[j] + offset);
  } else {
    scales[1] = float_to_half(min);
    uint32_t* to = static_cast<uint32_t*>(weight.values) + pair * (kWeightPair / 8);
    for (int word = 0; word < kWeightBlock / 8; ++word) {
      uint32_t nibbles = 0;
      for (int e = 0; e < 8; ++e) nibbles |= static_cast<uint32_t>(codes.code[word * 8 + e]) << nibble_bit(e);
      to[pair_place(block % 2 * kWeightBlock + word * 8) / 8] = nibbles;
    }
  }
}

// One thread eight weights of one row.
__global__ void __launch_bounds__(kThreads)
    unpack_kernel(float* out_f32, bf16* out_bf16, WeightView weight, const int32_t* indices, int rows, int columns, int matrix_rows) {
  const int per_row = columns / 8;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= static_cast<int64_t>(rows) * per_row) return;
  const int64_t local = i / per_row;
  const int64_t row = indices != nullptr ? indices[local] : local;
  const int column = static_cast<int>(i % per_row) * 8;
  float values[8];
  if (row < 0 || row >= matrix_rows) {
    for (float& value : values) value = kNaN;
  } else if (weight.kind == WeightKind::kF32) {
    const float* from = static_cast<const float*>(weight.values) + row * columns + column;
#pragma unroll
    for (int e = 0; e < 8; ++e) values[e] = from[e];
  } else if (weight.kind == WeightKind::kBf16) {
    const uint4 packed = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(weight.values) + row * columns + column);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int e = 0; e < 8; ++e) values[e] = e % 2 == 0 ? low_bf16(words[e / 2]) : high_bf16(words[e / 2]);
  } else {
    const int64_t pair = row * weight_pairs(columns) + column / kWeightPair;
    const int place = pair_place(column % kWeightPair);
    const int64_t block = 2 * pair + column % kWeightPair / kWeightBlock;
    if (weight.kind == WeightKind::kQ8) {
      const uint2 packed = *reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(weight.values) + pair * kWeightPair + place);
      const float scale = half_to_float(weight.scales[block]);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int code = static_cast<int>((e < 4 ? packed.x : packed.y) >> (8 * (e % 4)) & 255u);
        values[e] = scale * static_cast<float>(code - kQ8Offset);
      }
    } else {
      const uint32_t packed = static_cast<const uint32_t*>(weight.values)[pair * (kWeightPair / 8) + place / 8];
      const float scale = half_to_float(weight.scales[2 * block]), min = half_to_float(weight.scales[2 * block + 1]);
#pragma unroll
      for (int e = 0; e < 8; ++e) values[e] = sum_of(multiply(scale, static_cast<float>(packed >> nibble_bit(e) & 15u)), min);
    }
  }
  const int64_t at = local * columns + column;
  if (out_f32 != nullptr) {
    reinterpret_cast<float4*>(out_f32 + at)[0] = make_float4(values[0], values[1], values[2], values[3]);
    reinterpret_cast<float4*>(out_f32 + at)[1] = make_float4(values[4], values[5], values[6], values[7]);
  } else {
    *reinterpret_cast<uint4*>(out_bf16 + at) = make_uint4(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]),
                                                          pack_bf16(values[4], values[5]), pack_bf16(values[6], values[7]));
  }
}

bool fits(WeightKind kind, int rows, int columns) {
  return rows >= 0 && columns > 0 && columns % (in_blocks(kind) ? kWeightBlock : 8) == 0;
}

dim3 blocks_for(int64_t threads) { return dim3(static_cast<unsigned>(ceil_div(threads, kThreads))); }

}  // namespace

cudaError_t pack_weight(cudaStream_t stream, const WeightView& weight, int64_t first_row, const void* source, SourceType type, int rows,
                        int columns) {
  if (!fits(weight.kind, rows, columns) || columns % source_block(type).values != 0) return cudaErrorInvalidValue;
  return launch(pack_kernel, blocks_for(static_cast<int64_t>(rows) * 2 * weight_pairs(columns)), dim3(kThreads), 0, stream, weight, first_row,
                static_cast<const uint8_t*>(source), type, rows, columns);
}

cudaError_t unpack_weight(cudaStream_t stream, float* out_f32, bf16* out_bf16, const WeightView& weight, const int32_t* indices, int rows,
                          int columns, int matrix_rows) {
  if (!fits(weight.kind, rows, columns) || (out_f32 == nullptr) == (out_bf16 == nullptr)) return cudaErrorInvalidValue;
  return launch(unpack_kernel, blocks_for(static_cast<int64_t>(rows) * (columns / 8)), dim3(kThreads), 0, stream, out_f32, out_bf16, weight,
                indices, rows, columns, matrix_rows);
}

}  // namespace magicpig
