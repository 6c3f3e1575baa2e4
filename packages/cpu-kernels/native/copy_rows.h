#ifndef MAGICPIG_CPU_COPY_ROWS_H_
#define MAGICPIG_CPU_COPY_ROWS_H_

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace magicpig::cpu {

// out (count, width): rows indices[i] of x (*, width). A plain copy: it is memory-bound and small (the rows that want logits).
inline void CopyRows(const float* x, const int32_t* indices, size_t count, size_t width, float* out) {
  for (size_t i = 0; i < count; ++i) {
    memcpy(out + i * width, x + static_cast<size_t>(indices[i]) * width, width * sizeof(float));
  }
}

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_COPY_ROWS_H_
