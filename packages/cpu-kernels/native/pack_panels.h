// Floating-point weights as panels hold them.
#ifndef MAGICPIG_CPU_PACK_PANELS_H_
#define MAGICPIG_CPU_PACK_PANELS_H_

#include "float16.h"
#include "kernels.h"

namespace magicpig::cpu {
namespace {

inline void PackPanelF32(const float* rows, size_t cols, void* panel) {
  float* out = static_cast<float*>(panel);
  for (size_t k = 0; k < cols; ++k) {
    for (size_t row = 0; row < kPanel; ++row) *out++ = rows[row * kMaxBlockValues + k];
  }
}

inline void PackPanelBf16(const float* rows, size_t cols, void* panel) {
  uint16_t* out = static_cast<uint16_t*>(panel);
  for (size_t k = 0; k < cols; k += 2) {
    for (size_t row = 0; row < kPanel; ++row) {
      *out++ = FloatToBf16(rows[row * kMaxBlockValues + k]);
      *out++ = FloatToBf16(rows[row * kMaxBlockValues + k + 1]);
    }
  }
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_PACK_PANELS_H_
