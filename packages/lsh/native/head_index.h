// The hash tables of one head: codes in, candidates out. Knows nothing of vectors.
#ifndef MAGICPIG_LSH_HEAD_INDEX_H_
#define MAGICPIG_LSH_HEAD_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "../include/magicpig/pool.h"
#include "buffer.h"
#include "kernels.h"

namespace magicpig::lsh {

// A run of keys, sorted by bucket in every table.
struct Segment {
  uint32_t count = 0;
  Buffer<uint16_t> starts;  // [tables][buckets + 1]: bucket b of table t holds ids[t][starts[t][b] .. starts[t][b + 1])
  Buffer<uint16_t> ids;     // [tables][count], relative to the segment's first key, ascending within a bucket
};

// Space that queries of one thread reuse.
struct QueryScratch {
  Buffer<uint8_t> counters;  // bytes of the collision counters, zero between queries
  Buffer<Bucket> buckets;    // [segments][tables]: the query's
  Buffer<uint16_t> ids;      // of some buckets, one behind the other
};

// Keys live in segments of at most kSegmentKeys, so that positions fit in 16 bits, and the last few in a tail of plain codes,
// which queries compare one by one. A full tail becomes a segment and is merged with the segments before it while these are
// less than kMergeRatio times as large: a key is copied a few times in all, and few small segments exist at any time.
class HeadIndex {
 public:
  static constexpr uint32_t kSegmentKeys = 65535;
  static constexpr uint32_t kMergeRatio = 4;

  HeadIndex(uint32_t bits, uint32_t tables);

  size_t size() const { return size_; }
  size_t bytes() const;

  // Writes codes [rows][tables] of rows [begin, begin + rows): codes[r * row_stride + t * table_stride]. Called from pool
  // threads, at most kFillRows rows at a time; must not throw. False aborts the append.
  using Fill = std::function<bool(size_t begin, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride,
                                  uint32_t thread)>;
  static constexpr size_t kFillRows = 64;

  // Appends n keys. False when `fill` was; then, and when std::bad_alloc is thrown, nothing has changed.
  bool Append(const magicpig_pool& pool, size_t n, const Fill& fill);

  // Keeps the first `size` keys. Throws std::bad_alloc, and then nothing has changed.
  void Truncate(const magicpig_pool& pool, size_t size);

  // Ids below `limit` of the keys that equal codes [tables] in at least `least` tables, ascending, and on request in how many
  // tables each does. The buffers are grown as needed. Throws std::bad_alloc.
  size_t Query(const Kernels& kernels, const uint16_t* codes, size_t limit, uint32_t least, QueryScratch& scratch,
               Buffer<uint32_t>& ids, Buffer<uint16_t>* collisions = nullptr) const;

 private:
  uint32_t buckets() const { return 1u << bits_; }
  Segment Allocate(uint32_t count) const;
  // Counting sort of table t, from its codes [count].
  void Sort(Segment& segment, uint32_t t, const uint16_t* codes) const;
  Segment Merge(const magicpig_pool& pool, const Segment* segments, size_t count) const;
  Segment FromTail(const magicpig_pool& pool, const uint16_t* codes, uint32_t count) const;
  void MergeLast(const magicpig_pool& pool);
  template <typename Counter>
  size_t QueryWith(const Kernels& kernels, const uint16_t* codes, size_t limit, uint32_t least, QueryScratch& scratch,
                   Buffer<uint32_t>& ids, Buffer<uint16_t>* collisions) const;

  uint32_t bits_, tables_;
  uint32_t tail_limit_;  // keys that the tail holds at most
  size_t size_ = 0;
  std::vector<Segment> segments_;
  uint32_t tail_count_ = 0;
  Buffer<uint16_t> tail_;  // [tail_count][tables]
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_HEAD_INDEX_H_
