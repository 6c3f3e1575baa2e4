#include <arm_neon.h>

#include "sketch_lanes.h"

namespace magicpig::lsh {
namespace {

// Sixteen keys' sums of kCount queries at a time.
template <size_t kCount, bool kFine>
void ScanWith(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, uint16_t* out, size_t stride) {
  constexpr size_t kPart = 16;
  const size_t units = size / kSketchUnit;
  const uint8x16_t low_nibble = vdupq_n_u8(15);
  for (size_t first = 0; first < blocks * kSketchKeys; first += kPart) {
    const uint8_t* byte = codes + first / kSketchKeys * bits * size / 8 * kSketchKeys + first % kSketchKeys;
    uint16x8_t sums[kCount][2];
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) sums[h][0] = sums[h][1] = vdupq_n_u16(0);
    for (uint32_t plane = 0; plane < bits; ++plane) {
#pragma GCC unroll 4
      for (size_t h = 0; h < kCount; ++h) {
        sums[h][0] = vshlq_n_u16(sums[h][0], 1);
        sums[h][1] = vshlq_n_u16(sums[h][1], 1);
      }
      for (size_t unit = 0; unit < units; ++unit) {
        uint8x16_t partial[kCount];
#pragma GCC unroll 4
        for (size_t h = 0; h < kCount; ++h) partial[h] = vdupq_n_u8(0);
#pragma GCC unroll 8
        for (size_t g = 0; g < 8; ++g, byte += kSketchKeys) {
          const uint8x16_t x = vld1q_u8(byte);
          const uint8x16_t low = vandq_u8(x, low_nibble), high = vshrq_n_u8(x, 4);
#pragma GCC unroll 4
          for (size_t h = 0; h < kCount; ++h) {
            const uint8_t* table = tables + (h * units + unit) * kSketchTableBytes + g * 32;
            partial[h] = vaddq_u8(partial[h], vaddq_u8(vqtbl1q_u8(vld1q_u8(table), low), vqtbl1q_u8(vld1q_u8(table + 16), high)));
            if (g == 7 || (kFine && (g == 2 || g == 5))) {
              sums[h][0] = vaddw_u8(sums[h][0], vget_low_u8(partial[h]));
              sums[h][1] = vaddw_high_u8(sums[h][1], partial[h]);
              partial[h] = vdupq_n_u8(0);
            }
          }
        }
      }
    }
#pragma GCC unroll 4
    for (size_t h = 0; h < kCount; ++h) {
      vst1q_u16(out + h * stride + first, sums[h][0]);
      vst1q_u16(out + h * stride + first + 8, sums[h][1]);
    }
  }
}

void Scan(const uint8_t* codes, size_t blocks, uint32_t bits, size_t size, const uint8_t* tables, size_t count, uint16_t* sums,
          size_t stride) {
  const auto scan = [&]<size_t kCount>() {
    (FineSpans(bits) ? ScanWith<kCount, true> : ScanWith<kCount, false>)(codes, blocks, bits, size, tables, sums, stride);
  };
  switch (count) {
    case 1: return scan.template operator()<1>();
    case 2: return scan.template operator()<2>();
    case 3: return scan.template operator()<3>();
    default: return scan.template operator()<4>();
  }
}

// A table of kSketchLevels bytes.
inline uint8x16x4_t TableOf(const uint8_t* bytes) {
  return {vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)};
}

size_t Draw(const uint8_t* depths, int32_t offset, const uint8_t* ranks, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
            float* logs) {
  constexpr size_t kPart = 16;
  const uint8x16x4_t bound = TableOf(draw.ranks);
  const uint8x16_t above = vdupq_n_u8(static_cast<uint8_t>(offset < 0 ? -offset : 0));
  const uint8x16_t below = vdupq_n_u8(static_cast<uint8_t>(offset < 0 ? 0 : offset < 255 ? offset : 255));
  size_t count = 0;
  for (size_t i = 0; i < n; i += kPart) {
    const uint8x16_t level = vminq_u8(vqaddq_u8(vqsubq_u8(vld1q_u8(depths + i), above), below), vdupq_n_u8(kSketchLevels - 1));
    const uint8x16_t drawn = vcltq_u8(vld1q_u8(ranks + i), vqtbl4q_u8(bound, level));
    // Four bits a key.
    uint64_t left = vget_lane_u64(vreinterpret_u64_u8(vshrn_n_u16(vreinterpretq_u16_u8(drawn), 4)), 0) & 0x1111111111111111u;
    if (n - i < kPart) left &= (uint64_t{1} << 4 * (n - i)) - 1;
    for (; left != 0; left &= left - 1) {
      const size_t at = i + static_cast<size_t>(__builtin_ctzll(left)) / 4;
      ids[count] = first + static_cast<uint32_t>(at);
      logs[count++] = draw.logs[LevelOf(depths[at], offset)];
    }
  }
  return count;
}

}  // namespace

const SketchKernels kNeonSketchKernels = {"neon",              SketchRotate,    SketchEncode,   NibbleTables, Scan,
                                          SketchDepths<&Scan>, SketchHistogram, SketchCountTop, SketchRanks,  Draw};

}  // namespace magicpig::lsh
