#include <arm_neon.h>

#include "sketch_lanes.h"

namespace magicpig::lsh {
namespace {

// Sixteen keys' scores of up to kCount queries at a time.
template <size_t kCount, bool kFine>
void ScanWith(const uint8_t* codes, const uint16_t* factors, size_t blocks, uint32_t bits, size_t size, const SketchQuery* queries,
              float* scores, size_t stride, float* largest) {
  constexpr size_t kPart = 16;
  const size_t units = size / kSketchUnit;
  const uint8x16_t low_nibble = vdupq_n_u8(15);
  float32x4_t most[kCount];
#pragma GCC unroll 4
  for (size_t h = 0; h < kCount; ++h) most[h] = vdupq_n_f32(largest[h]);
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
            const uint8_t* table = queries[h].tables + unit * kSketchTableBytes + g * 32;
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
      const float32x4_t shift = vdupq_n_f32(queries[h].shift);
      float* out = scores + h * stride + first;
      const auto put = [&](size_t at, uint16x4_t of) {
        const float32x4_t sum = vcvtq_f32_u32(vmovl_u16(of));
        const float32x4_t dot = vsubq_f32(vaddq_f32(sum, sum), shift);  // exact: integers below 2^24
        const uint32x4_t factor = vshll_n_u16(vld1_u16(factors + first + at), 16);
        const float32x4_t r = vmulq_f32(dot, vreinterpretq_f32_u32(factor));
        vst1q_f32(out + at, r);
        most[h] = vmaxq_f32(most[h], r);
      };
      put(0, vget_low_u16(sums[h][0]));
      put(4, vget_high_u16(sums[h][0]));
      put(8, vget_low_u16(sums[h][1]));
      put(12, vget_high_u16(sums[h][1]));
    }
  }
#pragma GCC unroll 4
  for (size_t h = 0; h < kCount; ++h) largest[h] = vmaxvq_f32(most[h]);
}

void Scan(const uint8_t* codes, const uint16_t* factors, size_t blocks, uint32_t bits, size_t size, const SketchQuery* queries,
          size_t count, float* scores, size_t stride, float* largest) {
  const auto scan = [&]<size_t kCount>() {
    const auto with = FineSpans(bits) ? ScanWith<kCount, true> : ScanWith<kCount, false>;
    with(codes, factors, blocks, bits, size, queries, scores, stride, largest);
  };
  switch (count) {
    case 1: return scan.template operator()<1>();
    case 2: return scan.template operator()<2>();
    case 3: return scan.template operator()<3>();
    default: return scan.template operator()<4>();
  }
}

// Thresholds of a few keys at a time, which the compiler turns into vectors; then the drawn ones, without a branch.
size_t Draw(const float* scores, const float* uniforms, size_t n, const SketchDraw& draw, uint32_t first, uint32_t* ids,
            float* thresholds) {
  constexpr size_t kPart = 16;
  size_t count = 0;
  for (size_t i = 0; i < n; i += kPart) {
    float threshold[kPart];
    for (size_t j = 0; j < kPart; ++j) threshold[j] = SketchThreshold(scores[i + j], draw);
    for (size_t j = 0; j < kPart; ++j) {
      ids[count] = first + static_cast<uint32_t>(i + j);
      thresholds[count] = threshold[j];
      count += uniforms[i + j] < threshold[j];
    }
  }
  return count;
}

}  // namespace

const SketchKernels kNeonSketchKernels = {"neon",         SketchRotate,    SketchEncode, NibbleTables, Scan,
                                          SketchUniforms, SketchHistogram, Draw,         SketchLogs};

}  // namespace magicpig::lsh
