// What a caller asks to be sampled, and what a selector answers: the checks of both.
#ifndef MAGICPIG_KV_SAMPLING_H_
#define MAGICPIG_KV_SAMPLING_H_

#include <cstdint>
#include <vector>

#include "magicpig/selector.h"
#include "store.h"

namespace magicpig::kv {

// Tokens [begin, end) of an entry are sampled by `selector`; nullptr for exact attention. The others are attended exactly, or,
// with sampled_only, not at all.
struct Sampling {
  const magicpig_selector* selector = nullptr;
  uint32_t begin = 0;
  uint32_t end = 0;
  bool sampled_only = false;
};

// Whether the selectors fit the step's entries, one for each.
Status CheckSampling(const Step& step, uint32_t layer, const std::vector<Sampling>& samplings);

// Whether attention needs the step's own keys: not where all entries read earlier, sampled tokens alone.
bool ReadsNewKeys(const Step& step, const std::vector<Sampling>* sampling);

// What is wrong with a selection among `indexed` tokens, or nullptr.
const char* FaultOf(const magicpig_selection& selection, uint32_t indexed);

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SAMPLING_H_
