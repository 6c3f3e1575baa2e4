// Draws that a device made, as a selector (magicpig/selector.h): rows of samples in pinned memory, which attention reads in place.
#ifndef MAGICPIG_BINDING_SAMPLE_SELECTOR_H_
#define MAGICPIG_BINDING_SAMPLE_SELECTOR_H_

#include <magicpig/selector.h>

#include <atomic>

namespace magicpig {

class SampleSelector {
 public:
  // For keys of `head_dim`; heads = layers * kv_heads. Holds one reference.
  SampleSelector(uint32_t head_dim, uint32_t heads) : abi_{MAGICPIG_SELECTOR_ABI, head_dim, heads, this, select, retain, release} {}

  magicpig_selector* abi() { return &abi_; }

  // What every layer reads from now on: rows [query_heads][2 + 2 room] of sketch_draw, one for each query head of a layer: the count,
  // an error that is not read here, ids [room], and the logarithms of their probabilities [room]. Not while it selects.
  void set(const int32_t* rows, uint32_t query_heads, uint32_t room) {
    rows_ = rows;
    query_heads_ = query_heads;
    room_ = room;
  }

 private:
  static int select(void* context, const magicpig_selector_args* args, magicpig_selection* out) {
    const auto* self = static_cast<const SampleSelector*>(context);
    if (self->rows_ == nullptr || args->query_head + args->queries > self->query_heads_) return 1;
    for (uint32_t i = 0; i < args->queries; ++i) {
      const int32_t* row = self->rows_ + static_cast<size_t>(args->query_head + i) * (2 + 2 * static_cast<size_t>(self->room_));
      const int32_t count = row[0];
      if (count < 0 || static_cast<uint32_t>(count) > self->room_) return 1;
      const auto* ids = reinterpret_cast<const uint32_t*>(row + 2);
      if (count > 0 && ids[count - 1] >= args->indexed) return 1;
      out[i] = {};
      out[i].ids = ids;
      out[i].count = static_cast<uint32_t>(count);
      out[i].correction = MAGICPIG_CORRECTION_LOG_PROBABILITY;
      out[i].log_probability = reinterpret_cast<const float*>(row + 2 + self->room_);
    }
    return 0;
  }
  static void retain(void* context) { static_cast<SampleSelector*>(context)->references_.fetch_add(1); }
  static void release(void* context) {
    auto* self = static_cast<SampleSelector*>(context);
    if (self->references_.fetch_sub(1) == 1) delete self;
  }

  magicpig_selector abi_;
  std::atomic<int64_t> references_{1};
  const int32_t* rows_ = nullptr;
  uint32_t query_heads_ = 0, room_ = 0;
};

}  // namespace magicpig

#endif  // MAGICPIG_BINDING_SAMPLE_SELECTOR_H_
