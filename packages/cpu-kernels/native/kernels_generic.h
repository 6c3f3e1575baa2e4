// The kernels are written once over a vector type V that each instruction set provides (see kernels_portable.cc for the
// plainest one):
//   V::kLanes, V::kRows (most rows of a register tile), V::kRegisters (vector registers there are)
//   V::Load(p), V::LoadPart(p, n < kLanes, rest zero), V::Broadcast(x), v.Store(p), v.StorePart(p, n)
//   V::Add, V::Mul, V::Div, V::MulAdd(a, b, c) = a b + c, v.Sum()
//   V::Even(p), V::Odd(p): first and second elements of kLanes bfloat16 pairs
//   V::Exp(v), V::Abs(v), V::Max(a, b), v.Largest(), V::LoadHalves(p)
//   V::Opaque(v): the same value, but the compiler does not know that, and must compute it
// and, for quantised weights, over Q, which multiplies integers (PairProducts makes one of simpler parts):
//   Q::V, Q::kRows
//   Q::Weights::Bytes(p), ::Nibbles(p, half), ::Six(nibbles, pairs, i): four weights of each of V's outputs (formats.h)
//   Q::Inputs: four consecutive inputs of a row; Q::Pack(values, inverse, stride, inputs) makes the eight of a block, rounded as
//     RoundToInt16 in pack_inputs.h does, at distance `stride`, and returns their BlockTotals
//   Q::Sum: exact sums for V's outputs: Q::Start(value, shift) = value 2^shift, Q::Add(sum, weights, inputs), Q::Opaque(sum)
//   Q::Total(sum) as int32, Q::ToFloat of that
#ifndef MAGICPIG_CPU_KERNELS_GENERIC_H_
#define MAGICPIG_CPU_KERNELS_GENERIC_H_

#include "dequantize.h"
#include "elementwise.h"
#include "multiply_floats.h"
#include "multiply_quantised.h"
#include "pack_inputs.h"
#include "peaks.h"
#include "random_normal.h"

namespace magicpig::cpu {
namespace {

// The table of an instruction set whose vector type is V and whose integers are Q, without bfloat16 products.
template <typename V, typename Q>
constexpr Kernels MakeKernels() {
  return {
      {
          {V::kRows, 32 * sizeof(float), PackFloat<V, false>, PeakF32<V>},
          {V::kRows, 32 * sizeof(float), PackFloat<V, true>, PeakF32<V>},
          {Q::kRows, 8 * sizeof(typename Q::Inputs) + sizeof(QuantScale), PackInt16<Q>, PeakInt16<Q>},
      },
      {
          MultiplyF32<V>,
          MultiplyBf16<V>,
          MultiplyQuantised<Q, PanelFormat::kQ8>,
          MultiplyQuantised<Q, PanelFormat::kQ4>,
          MultiplyQuantised<Q, PanelFormat::kQ4Min>,
          MultiplyQuantised<Q, PanelFormat::kQ6>,
      },
      DequantizeRow,
      RoundRowToBf16,
      RandomNormal,
      Swiglu<V>,
      LogSumExp<V>,
      Rotate,
      Read<V>,
  };
}

}  // namespace
}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_KERNELS_GENERIC_H_
