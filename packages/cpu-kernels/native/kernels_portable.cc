// Portable kernels: the vector type is four floats in the compiler's own notation (SSE2, NEON, or plain loops elsewhere).
#include "kernels_generic.h"

namespace magicpig::cpu {
namespace {

struct V4 {
  static constexpr size_t kLanes = 4;
  static constexpr int kRows = 4;
  static constexpr int kRegisters = 16;

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
  static V4 Mul(V4 a, V4 b) { return {a.v * b.v}; }
  static V4 Div(V4 a, V4 b) { return {a.v / b.v}; }
#if defined(__aarch64__)
  static V4 MulAdd(V4 a, V4 b, V4 c) {
    return Of(__builtin_fmaf(a.v[0], b.v[0], c.v[0]), __builtin_fmaf(a.v[1], b.v[1], c.v[1]),
              __builtin_fmaf(a.v[2], b.v[2], c.v[2]), __builtin_fmaf(a.v[3], b.v[3], c.v[3]));
  }
#else
  static V4 MulAdd(V4 a, V4 b, V4 c) { return {a.v * b.v + c.v}; }
#endif
  float Sum() const { return (v[0] + v[2]) + (v[1] + v[3]); }
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

}  // namespace

constinit const Kernels kPortableKernels = MakeKernels<V4>();

}  // namespace magicpig::cpu
