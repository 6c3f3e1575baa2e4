#include "sampling.h"

namespace magicpig::kv {

Status CheckSampling(const Step& step, uint32_t layer, const std::vector<Sampling>& samplings) {
  const Shape& shape = step.store().shape();
  for (size_t e = 0; e < samplings.size(); ++e) {
    const Sampling& sampling = samplings[e];
    if (sampling.selector == nullptr) continue;
    const std::string name = "sampling[" + std::to_string(e) + "]";
    const Step::Entry& entry = step.entries()[e];
    if (sampling.begin > sampling.end || sampling.end > entry.start + 1) {
      return Error{ErrorCode::kInvalidArgument,
                   name + " samples tokens [" + std::to_string(sampling.begin) + ", " + std::to_string(sampling.end) +
                       "); the entry's first query sees only tokens 0 to " + std::to_string(entry.start) + "."};
    }
    const magicpig_selector& selector = *sampling.selector;
    if (selector.head_dim != shape.dim) {
      return Error{ErrorCode::kSelector, name + ".selector was built for head dimension " +
                                             std::to_string(selector.head_dim) + "; the store has " +
                                             std::to_string(shape.dim) + "."};
    }
    const uint32_t heads = (layer + 1) * shape.kv_heads;
    if (selector.heads < heads) {
      return Error{ErrorCode::kSelector, name + ".selector has " + std::to_string(selector.heads) +
                                             " heads; layer " + std::to_string(layer) + " needs at least " +
                                             std::to_string(heads) + " (layer * kvHeads + kvHead)."};
    }
  }
  return std::nullopt;
}

bool ReadsNewKeys(const Step& step, const std::vector<Sampling>* sampling) {
  if (sampling == nullptr) return true;
  for (size_t e = 0; e < sampling->size(); ++e) {
    const Sampling& one = (*sampling)[e];
    if (one.selector == nullptr || !one.sampled_only || one.end > step.entries()[e].start) return true;
  }
  return false;
}

const char* FaultOf(const magicpig_selection& selection, uint32_t indexed) {
  if (selection.count == 0) return nullptr;
  if (selection.ids == nullptr) return "returned no ids";
  // The ids ascend strictly, so that the last one bounds them all.
  if (selection.count > indexed || selection.ids[selection.count - 1] >= indexed) {
    return "returned ids beyond the sampled tokens";
  }
  switch (selection.correction) {
    case MAGICPIG_CORRECTION_NONE: return nullptr;
    case MAGICPIG_CORRECTION_COSINE_TABLE:
      return selection.table == nullptr || selection.table_size < 2 || selection.inverse_norms == nullptr
                 ? "returned no correction table, or no norms"
                 : nullptr;
    case MAGICPIG_CORRECTION_LOG_PROBABILITY:
      return selection.log_probability == nullptr ? "returned no log-probabilities" : nullptr;
  }
  return "returned an unknown correction";
}

}  // namespace magicpig::kv
