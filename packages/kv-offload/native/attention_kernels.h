// The attention algorithms, once, as templates over how rows are read and multiplied (a "core").
//
// Included by one source file for each instruction set, compiled with that set's flags. Everything in the headers below is
// a template over a type of that file's own or forced inline, so that the linker never takes one file's code for another's.
#ifndef MAGICPIG_KV_ATTENTION_KERNELS_H_
#define MAGICPIG_KV_ATTENTION_KERNELS_H_

#include "float_core.h"
#include "kernels.h"
#include "sampled_attention.h"
#include "span_attention.h"
#include "tile_attention.h"

namespace magicpig::kv {

template <class Core>
constexpr Kernels MakeKernels() {
  return {&Core::QueryBytes,   &TileBytes<Core>, &Core::Elements::StoreRow, &Core::Elements::LoadRow,
          &Core::PrepareQuery, &ScoreSpan<Core>, &ExtendSpan<Core>,         &ExtendSelection<Core>,
          &SelectionVariance<Core>, &ExtendTile<Core>};
}

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_ATTENTION_KERNELS_H_
