// SimHash tables of many heads over float vectors: centring, hashing, inverse norms, and the selector of selector.h.
#ifndef MAGICPIG_LSH_TABLES_H_
#define MAGICPIG_LSH_TABLES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../include/magicpig/selector.h"
#include "buffer.h"
#include "head_index.h"
#include "pool_handle.h"
#include "projection.h"

namespace magicpig::lsh {

enum class Status { kOk, kNonFinite, kInvalidCode };

class Tables {
 public:
  struct Options {
    std::shared_ptr<const Projection> projection;
    uint32_t heads;
    uint32_t min_collisions;
    std::vector<float> log_table;  // -log u over the cosine, see magicpig_selection::table
    bool centred;                  // on the mean of the keys of a head's first add
    PoolHandle pool;
  };

  // All functions that allocate throw std::bad_alloc, and then nothing has changed.
  explicit Tables(Options options);

  const Projection& projection() const { return *options_.projection; }
  uint32_t heads() const { return options_.heads; }
  size_t bytes() const;
  size_t size(uint32_t head) const { return heads_[head] ? heads_[head]->index.size() : 0; }
  // [dim], or null for zero.
  const float* centre(uint32_t head) const;

  // Appends keys [n][dim]. kNonFinite when one holds, or becomes by centring, NaN or an infinity; then nothing has changed.
  Status Add(uint32_t head, const float* keys, size_t n);
  // Appends keys by their codes [n][tables] alone; their inverse norms are 0. kInvalidCode when one has more than `bits` bits.
  Status AddCodes(uint32_t head, const uint16_t* codes, size_t n);
  void Truncate(uint32_t head, size_t size);
  void Clear();
  // Frees everything; select fails from then on.
  void Dispose();

  // Candidates of query [dim], valid until the next query of this thread.
  struct Candidates {
    Status status;
    const uint32_t* ids;
    const uint16_t* collisions;  // tables in which each equals the query, if asked for
    size_t count;
  };
  Candidates Query(uint32_t head, const float* query, uint32_t min_collisions, bool collisions) const;

  // magicpig_selector::select.
  int Select(const magicpig_selector_args& args, magicpig_selection* out) const;

 private:
  struct Head {
    explicit Head(TablesShape shape) : index(shape) {}
    HeadIndex index;
    Buffer<float> inverse_norms;  // [index.size()]
    Buffer<float> centre;         // [dim], or empty for zero
  };

  Options options_;
  const Kernels& kernels_;
  bool disposed_ = false;
  std::vector<std::unique_ptr<Head>> heads_;  // [heads]; null while a head has no keys and no centre
};

// A selector over `tables` with one reference, given back through its own release.
magicpig_selector* NewSelector(std::shared_ptr<const Tables> tables);

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_TABLES_H_
