#include "rotary.h"

#include <magicpig/thread_pool.h>
#include <math.h>

#include <algorithm>

namespace magicpig::cpu {
namespace {

// Elements that one task rotates, a few microseconds.
constexpr size_t kRotateTask = size_t{16} << 10;
// Sines and cosines that one task computes, a few microseconds.
constexpr size_t kTableTask = 256;

// Calls f(row) for each row, several to a task.
template <typename F>
void EachRow(const magicpig_pool& pool, size_t rows, size_t rows_per_task, F&& f) {
  rows_per_task = std::max<size_t>(1, rows_per_task);
  ParallelFor(pool, static_cast<uint32_t>((rows + rows_per_task - 1) / rows_per_task), [&](uint32_t task, uint32_t) {
    const size_t end = std::min(rows, (task + 1) * rows_per_task);
    for (size_t row = task * rows_per_task; row < end; ++row) f(row);
  });
}

}  // namespace

void RopeTable(const magicpig_pool& pool, const int32_t* positions, size_t rows, const float* frequencies, size_t half,
               float scale, float* table) {
  EachRow(pool, rows, kTableTask / half, [&](size_t row) {
    float* cosines = table + row * 2 * half;
    for (size_t j = 0; j < half; ++j) {
      const float angle = static_cast<float>(positions[row]) * frequencies[j];  // float32, as models were trained with
      cosines[j] = static_cast<float>(cos(static_cast<double>(angle))) * scale;
      cosines[half + j] = static_cast<float>(sin(static_cast<double>(angle))) * scale;
    }
  });
}

void Rope(const magicpig_pool& pool, const Kernels& kernels, float* x, const float* table, size_t rows, size_t stride,
          size_t heads, size_t head_dim) {
  EachRow(pool, rows, kRotateTask / (heads * head_dim),
          [&](size_t row) { kernels.rotate(x + row * stride, table + row * head_dim, heads, head_dim); });
}

}  // namespace magicpig::cpu
