// Emulated twins of device/tensor_core.h, written from the PTX ISA's text and figures (chapters "Warp-level matrix
// instructions" and "cp.async").
#ifndef MAGICPIG_EMULATOR_TENSOR_CORE_H_
#define MAGICPIG_EMULATOR_TENSOR_CORE_H_

#include "cuda_runtime.h"

namespace magicpig {

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const emulator::Place& place = emulator::Place::current());
inline void first_mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                           const emulator::Place& place = emulator::Place::current()) {
  for (float& value : d) value = 0.0f;
  mma_bf16(d, a, b0, b1, place);
}
void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const emulator::Place& place = emulator::Place::current());
inline void first_mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                         const emulator::Place& place = emulator::Place::current()) {
  for (int32_t& value : d) value = 0;
  mma_s8(d, a, b0, b1, place);
}
void mma_u8_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const emulator::Place& place = emulator::Place::current());
void load_matrices(uint32_t (&r)[4], const void* row, const emulator::Place& place = emulator::Place::current());
void load_matrices_transposed(uint32_t (&r)[4], const void* row, const emulator::Place& place = emulator::Place::current());
void copy_async(void* shared, const void* global, bool valid);
void commit_copies();
void wait_copies_until(size_t pending);
template <int kPending>
void wait_copies() {
  wait_copies_until(kPending);
}

}  // namespace magicpig

#endif  // MAGICPIG_EMULATOR_TENSOR_CORE_H_
