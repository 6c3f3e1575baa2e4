// Rows of keys or values from host memory, which holds them head by head, into a cache on the device, which holds them token by token.
#ifndef MAGICPIG_KERNELS_SCATTER_ROWS_H_
#define MAGICPIG_KERNELS_SCATTER_ROWS_H_

#include "../device/bf16.h"

namespace magicpig {

// out [slot][heads][dim] bf16: row r of x [heads][rows][dim] bf16 goes to slot slots[r] (slots [rows] i32; r itself when null). Rows
// whose slot is negative are not stored. dim is a multiple of 8.
cudaError_t scatter_rows(cudaStream_t stream, bf16* out, const bf16* x, const int32_t* slots, int rows, int heads, int dim);

}  // namespace magicpig

#endif  // MAGICPIG_KERNELS_SCATTER_ROWS_H_
