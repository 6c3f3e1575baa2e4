// The C ABI of selector.h around an index that has int Select(const magicpig_selector_args&, magicpig_selection*) const.
#ifndef MAGICPIG_LSH_NEW_SELECTOR_H_
#define MAGICPIG_LSH_NEW_SELECTOR_H_

#include <atomic>
#include <memory>
#include <new>

#include "../include/magicpig/selector.h"

namespace magicpig::lsh {

// A selector with one reference to itself, given back through its own release, which shares the index.
template <typename Index>
magicpig_selector* NewSelector(std::shared_ptr<const Index> index, uint32_t head_dim, uint32_t heads) {
  struct Context {
    std::atomic<int64_t> references{1};
    std::shared_ptr<const Index> index;
    magicpig_selector selector;
  };
  auto* context = new Context;
  context->index = std::move(index);
  context->selector = {
      MAGICPIG_SELECTOR_ABI,
      head_dim,
      heads,
      context,
      [](void* self, const magicpig_selector_args* args, magicpig_selection* out) {
        try {
          return static_cast<Context*>(self)->index->Select(*args, out);
        } catch (const std::bad_alloc&) {
          return 2;
        }
      },
      [](void* self) { static_cast<Context*>(self)->references.fetch_add(1, std::memory_order_relaxed); },
      [](void* self) {
        auto* released = static_cast<Context*>(self);
        if (released->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete released;
      },
  };
  return &context->selector;
}

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_NEW_SELECTOR_H_
