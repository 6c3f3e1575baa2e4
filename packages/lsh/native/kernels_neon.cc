#include <arm_neon.h>

#include <cstring>

#include "hadamard.h"
#include "kernels.h"
#include "quantise.h"

namespace magicpig::lsh {
namespace {

// One row by one block: sums[c / 4] holds four columns. Weights come interleaved in pairs, which ld2 takes apart.
void SignsOfRow(const int16_t* x, size_t pairs, const int16_t* weights, size_t blocks, uint16_t* signs) {
  for (size_t block = 0; block < blocks; ++block, weights += pairs * kColumns * 2) {
    int32x4_t sums[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (size_t pair = 0; pair < pairs; ++pair) {
      const int16_t* w = weights + pair * kColumns * 2;
      const int16x4_t first = vdup_n_s16(x[2 * pair]), second = vdup_n_s16(x[2 * pair + 1]);
      for (size_t half = 0; half < 2; ++half) {
        const int16x8x2_t columns = vld2q_s16(w + 16 * half);
        sums[2 * half] = vmlal_s16(sums[2 * half], vget_low_s16(columns.val[0]), first);
        sums[2 * half] = vmlal_s16(sums[2 * half], vget_low_s16(columns.val[1]), second);
        sums[2 * half + 1] = vmlal_s16(sums[2 * half + 1], vget_high_s16(columns.val[0]), first);
        sums[2 * half + 1] = vmlal_s16(sums[2 * half + 1], vget_high_s16(columns.val[1]), second);
      }
    }
    constexpr uint32_t kBit[4] = {1, 2, 4, 8};
    const uint32x4_t bit = vld1q_u32(kBit);
    uint32_t bits = 0;
    for (size_t quarter = 0; quarter < 4; ++quarter) {
      bits |= vaddvq_u32(vandq_u32(vcgtzq_s32(sums[quarter]), bit)) << (4 * quarter);
    }
    signs[block] = static_cast<uint16_t>(bits);
  }
}

void Signs(const int16_t* x, size_t rows, size_t pairs, const int16_t* weights, size_t blocks, uint16_t* signs,
           size_t signs_stride) {
  for (size_t row = 0; row < rows; ++row) SignsOfRow(x + row * pairs * 2, pairs, weights, blocks, signs + row * signs_stride);
}

size_t Gather(const Bucket* buckets, size_t n, uint16_t* out) {
  size_t count = 0;
  for (size_t i = 0; i < n; ++i) {
    std::memcpy(out + count, buckets[i].ids, buckets[i].count * sizeof *out);
    count += buckets[i].count;
  }
  return count;
}

template <typename Counter>
size_t Emit(const Counter* counters, size_t begin, size_t end, uint32_t least, uint32_t base, uint32_t* ids) {
  size_t count = 0;
  for (size_t i = begin; i < end; ++i) {
    ids[count] = base + static_cast<uint32_t>(i);
    count += counters[i] >= least;
  }
  return count;
}

size_t Collect8(uint8_t* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids) {
  const uint8x16_t bound = vdupq_n_u8(static_cast<uint8_t>(least));
  size_t count = 0;
  for (size_t i = 0; i < n; i += 16) {
    const bool any = vmaxvq_u8(vcgeq_u8(vld1q_u8(counters + i), bound)) != 0;
    if (any) count += Emit(counters, i, i + 16 < limit ? i + 16 : limit, least, base, ids + count);
    vst1q_u8(counters + i, vdupq_n_u8(0));
  }
  return count;
}

size_t Collect16(uint16_t* counters, size_t n, size_t limit, uint32_t least, uint32_t base, uint32_t* ids) {
  const uint16x8_t bound = vdupq_n_u16(static_cast<uint16_t>(least));
  size_t count = 0;
  for (size_t i = 0; i < n; i += 8) {
    const bool any = vmaxvq_u16(vcgeq_u16(vld1q_u16(counters + i), bound)) != 0;
    if (any) count += Emit(counters, i, i + 8 < limit ? i + 8 : limit, least, base, ids + count);
    vst1q_u16(counters + i, vdupq_n_u16(0));
  }
  return count;
}

size_t Equal(const uint16_t* a, const uint16_t* b, size_t tables) {
  uint16x8_t sums = vdupq_n_u16(0);
  size_t t = 0;
  for (; t + 8 <= tables; t += 8) sums = vsubq_u16(sums, vceqq_u16(vld1q_u16(a + t), vld1q_u16(b + t)));
  size_t count = vaddvq_u16(sums);
  for (; t < tables; ++t) count += a[t] == b[t];
  return count;
}

}  // namespace

const Kernels kNeonKernels = {"neon", Quantise, Signs, Hadamard, Dot, Gather, Collect8, Collect16, Equal};

}  // namespace magicpig::lsh
