// Portable kernels: the vector type is four floats in the compiler's own notation (SSE2, NEON, or plain loops elsewhere).
#include "kernels_generic.h"

#if defined(__aarch64__)
#include <arm_neon.h>  // for the fused multiply-add, which the notation lacks
#endif

namespace magicpig::cpu {
namespace {

struct V4 {
  static constexpr size_t kLanes = 4;
#if defined(__aarch64__)
  static constexpr int kRows = 6;
  static constexpr int kRegisters = 32;
#else
  static constexpr int kRows = 4;
  static constexpr int kRegisters = 16;
#endif

  typedef float Lanes __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  Lanes v;

  static V4 Of(float a, float b, float c, float d) {
    const Lanes lanes = {a, b, c, d};
    return {lanes};
  }
  static V4 Broadcast(float x) { return Of(x, x, x, x); }
  static V4 Load(const float* p) {
    V4 r;
    memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  static V4 LoadPart(const float* p, size_t n) {
    V4 r = Broadcast(0);
    for (size_t i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  void Store(float* p) const { memcpy(p, &v, sizeof v); }
  void StorePart(float* p, size_t n) const {
    for (size_t i = 0; i < n; ++i) p[i] = v[i];
  }
  static V4 Add(V4 a, V4 b) { return {a.v + b.v}; }
  static V4 Max(V4 a, V4 b) { return {a.v > b.v ? a.v : b.v}; }
  static V4 Abs(V4 a) { return {reinterpret_cast<Lanes>(reinterpret_cast<Bits>(a.v) & 0x7fffffffu)}; }
  static V4 Mul(V4 a, V4 b) { return {a.v * b.v}; }
  static V4 Div(V4 a, V4 b) { return {a.v / b.v}; }
#if defined(__aarch64__)
  static V4 MulAdd(V4 a, V4 b, V4 c) { return {reinterpret_cast<Lanes>(vfmaq_f32(c.v, a.v, b.v))}; }
#else
  static V4 MulAdd(V4 a, V4 b, V4 c) { return {a.v * b.v + c.v}; }
#endif
  float Sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }
  float Largest() const {
    const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
  }
  static V4 LoadHalves(const uint16_t* p) {
    return Of(F16ToFloat(p[0]), F16ToFloat(p[1]), F16ToFloat(p[2]), F16ToFloat(p[3]));
  }
  // Of each little-endian pair of bfloat16, the first is the low half of 32 bits.
  static V4 Even(const uint16_t* p) { return {reinterpret_cast<Lanes>(Pairs(p) << 16)}; }
  static V4 Odd(const uint16_t* p) { return {reinterpret_cast<Lanes>(Pairs(p) & 0xffff0000u)}; }
  static V4 Opaque(V4 x) {
#if defined(__x86_64__)
    asm volatile("" : "+x"(x.v));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(x.v));
#else
    asm volatile("" : "+m"(x.v));
#endif
    return x;
  }
  static V4 Exp(V4 x) { return Of(expf(x.v[0]), expf(x.v[1]), expf(x.v[2]), expf(x.v[3])); }

 private:
  static Bits Pairs(const uint16_t* p) {
    Bits bits;
    memcpy(&bits, p, sizeof bits);
    return bits;
  }
};

struct Q4 {
  using V = V4;
  static constexpr int kRows = 2;

  typedef int32_t Ints __attribute__((vector_size(16)));
  using Shorts = WeightPairs<V4>::Shorts;

  static constexpr auto RoundToInt16 = cpu::RoundToInt16;
  static Ints Splat(int32_t x) {
    const Ints lanes = {x, x, x, x};
    return lanes;
  }
  static Ints ShiftLeft(Ints x, int n) { return x << n; }
  static V4 ToFloat(Ints x) { return {__builtin_convertvector(x, V4::Lanes)}; }
  static Ints Dot(Ints sum, Shorts w, const int16_t (&x)[2]) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
#if defined(__aarch64__)
    const int16x8_t a = reinterpret_cast<int16x8_t>(w), b = reinterpret_cast<int16x8_t>(Splat(pair));
    const int32x4_t sums = vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
    return sum + reinterpret_cast<Ints>(sums);
#else
    // A weight (at most 255) times either byte of an input fits 16 bits.
    typedef int16_t Inputs __attribute__((vector_size(16)));
    const Inputs inputs = reinterpret_cast<Inputs>(Splat(pair));
    const Ints high = reinterpret_cast<Ints>(reinterpret_cast<Inputs>(w) * (inputs >> 8));
    const Words low = reinterpret_cast<Words>(w * reinterpret_cast<Shorts>(inputs & 255));
    const Ints high_sums = (reinterpret_cast<Ints>(reinterpret_cast<Words>(high) << 16) >> 16) + (high >> 16);
    return sum + (high_sums << 8) + reinterpret_cast<Ints>((low & 0xffffu) + (low >> 16));
#endif
  }
  static Ints Opaque(Ints x) {
    const V4 opaque = V4::Opaque({reinterpret_cast<V4::Lanes>(x)});
    return reinterpret_cast<Ints>(opaque.v);
  }

 private:
  typedef uint32_t Words __attribute__((vector_size(16)));
};

}  // namespace

constinit const Kernels kPortableKernels = MakeKernels<V4, PairProducts<Q4>>();

}  // namespace magicpig::cpu
