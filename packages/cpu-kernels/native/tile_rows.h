// Register tiles of a number of rows that is known to the compiler.
#ifndef MAGICPIG_CPU_TILE_ROWS_H_
#define MAGICPIG_CPU_TILE_ROWS_H_

#include "kernels.h"

namespace magicpig::cpu {
namespace {

// Calls f.template operator()<rows>() with the run-time `rows` (1..kMost) as a constant.
template <int kMost, typename F>
inline void WithRows(int rows, F&& f) {
  if constexpr (kMost == 1) {
    f.template operator()<1>();
  } else {
    if (rows == kMost) {
      f.template operator()<kMost>();
    } else {
      WithRows<kMost - 1>(rows, f);
    }
  }
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_TILE_ROWS_H_
