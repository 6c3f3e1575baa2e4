// What the machine can do at most, measured: the denominators of every speed that is quoted.
#ifndef MAGICPIG_CPU_CEILINGS_H_
#define MAGICPIG_CPU_CEILINGS_H_

#include <magicpig/pool.h>

#include "kernels.h"

namespace magicpig::cpu {

struct Ceilings {
  double read_bandwidth = 0;             // bytes a second, all threads together, from memory that no cache holds
  double operations[kInputFormats] = {};  // operations a second, all threads together, by InputFormat
};

// Takes about a third of a second. False when the system has no memory for the buffer that is read.
bool MeasureCeilings(const magicpig_pool& pool, const Kernels& kernels, Ceilings* ceilings);

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_CEILINGS_H_
