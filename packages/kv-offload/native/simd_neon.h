// The vector interface of simd_portable.h with NEON (AArch64).
#ifndef MAGICPIG_KV_SIMD_NEON_H_
#define MAGICPIG_KV_SIMD_NEON_H_

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace magicpig::kv {
namespace {  // each source file has its own

struct Neon {
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 16;
  static constexpr int kTileRows = 6;
  static constexpr int kTileVectors = 4;
  using F = float32x4_t;

  static F Set1(float x) { return vdupq_n_f32(x); }
  static F Zero() { return vdupq_n_f32(0.0f); }
  static F Load(const float* p) { return vld1q_f32(p); }
  static void Store(float* p, F a) { vst1q_f32(p, a); }
  static F LoadBf16(const void* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(static_cast<const uint16_t*>(p)), 16));
  }
  static F LoadF16(const void* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(p))));
  }
  static F LoadInt8(const void* p) {
    int32_t bytes;
    std::memcpy(&bytes, p, sizeof bytes);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes))))));
  }
  static F Add(F a, F b) { return vaddq_f32(a, b); }
  static F Sub(F a, F b) { return vsubq_f32(a, b); }
  static F Mul(F a, F b) { return vmulq_f32(a, b); }
  static F Fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F Max(F a, F b) { return vmaxq_f32(a, b); }
  static F Min(F a, F b) { return vminq_f32(a, b); }
  static F ZeroBelow(F a, F x, float limit) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vcgeq_f32(x, Set1(limit))));
  }
  static F Round(F a) { return vrndnq_f32(a); }
  static F Exp2(F a) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127)), 23));
  }
  static float Sum(F a) { return vaddvq_f32(a); }
  static float Largest(F a) { return vmaxvq_f32(a); }
  static F SumEach(const F* a) { return vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3])); }
  static F Gather(const float* base, const uint32_t* index) {
    const float lanes[4] = {base[index[0]], base[index[1]], base[index[2]], base[index[3]]};
    return Load(lanes);
  }
  static F Interpolate(const float* table, uint32_t size, F x) {
    const uint32x4_t low = vminq_u32(vcvtq_u32_f32(x), vdupq_n_u32(size - 2));
    uint32_t index[4];
    vst1q_u32(index, low);
    const F a = Gather(table, index);
    return Fma(Sub(Gather(table + 1, index), a), Sub(x, vcvtq_f32_u32(low)), a);
  }
};

}  // namespace
}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SIMD_NEON_H_
