// The hash tables of one head: codes in, candidates out. Knows nothing of vectors.
#ifndef MAGICPIG_LSH_HEAD_INDEX_H_
#define MAGICPIG_LSH_HEAD_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "../include/magicpig/pool.h"
#include "buffer.h"
#include "container.h"
#include "kernels.h"
#include "segment.h"

namespace magicpig::lsh {

// What one query found.
struct Found {
  size_t count = 0;
  Buffer<uint32_t> ids;         // [count], ascending
  Buffer<uint16_t> collisions;  // [count], if asked for
};

// Space that queries of one thread reuse.
struct QueryScratch {
  // The buckets of a query: bucket of table t in part p of segment s is [(s * kMostParts + p) * tables + t].
  Buffer<Bucket> buckets[2];
  Buffer<uint8_t> counters;  // bytes of the collision counters [kMostParts][kPartKeys + 1], zero between queries
  Buffer<uint16_t> ids;      // of some buckets, one behind the other
};

// Keys live in segments, and the last few in a tail of plain codes, which queries compare one by one. A full tail becomes a
// segment and is merged with the segments before it while these are less than kMergeRatio times as large: a key is copied a few
// times in all, and few small segments exist at any time. Copies share their keys' memory until one of them changes it.
class HeadIndex {
 public:
  static constexpr uint32_t kMergeRatio = 4;

  explicit HeadIndex(TablesShape shape);

  size_t size() const { return size_; }
  // What copies share is divided among them.
  size_t bytes() const;
  // Upper bound of bytes() with n keys, however they were added, when none were forgotten since.
  static size_t MostBytes(TablesShape shape, size_t n);

  const std::vector<Segment>& segments() const { return segments_; }
  uint32_t tail_count() const { return tail_count_; }
  size_t tail_bytes() const { return tail_codes_.bytes(); }
  // Keys in each bucket, over all tables: occupied buckets, keys in the fullest, and the sum of squares.
  struct Occupancy {
    uint64_t occupied, largest, squares;
  };
  Occupancy occupancy() const;

  // Writes codes [rows][tables] of rows [begin, begin + rows): codes[r * row_stride + t * table_stride]. Called from pool
  // threads, at most kFillRows rows at a time; must not throw. False aborts the append.
  using Fill = std::function<bool(size_t begin, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride,
                                  uint32_t thread)>;
  static constexpr size_t kFillRows = 64;

  // All that change something throw std::bad_alloc, or FileError when what lies in a file is not Valid; then nothing has changed.

  // Appends n keys. False when `fill` was; then nothing has changed.
  bool Append(const magicpig_pool& pool, size_t n, const Fill& fill);
  // Appends n keys with codes [n][tables].
  void AppendCodes(const magicpig_pool& pool, size_t n, const uint16_t* codes);
  // Appends the keys of a segment that is Valid and owned.
  void AppendSegment(const magicpig_pool& pool, Segment segment);

  // Keeps the first `size` keys.
  void Truncate(const magicpig_pool& pool, size_t size);

  // Ids below `limit` of the keys that equal codes [rows][tables] in at least `least` tables, for each row, and on request in
  // how many tables each does. Memory for the next row is fetched while one is worked on. Throws std::bad_alloc.
  void Query(const Kernels& kernels, const uint16_t* codes, size_t rows, size_t limit, uint32_t least, bool collisions,
             QueryScratch& scratch, Found* found) const;

  // Sections of a file, under the number `index`.
  void Write(ContainerWriter& writer, uint32_t index) const;
  // What Write wrote, of an index of `size` keys in `segments` segments and a tail. With `view` the index stays in the file
  // and is not looked at yet: whatever it holds, queries touch no memory that is not theirs. Without, it must be Valid. Throws
  // FileError, std::bad_alloc.
  static HeadIndex Read(const magicpig_pool& pool, TablesShape shape, const Container& file, uint32_t index, size_t size,
                        uint32_t segments, uint32_t tail, bool view);

  // Whether every table holds every key once and in order.
  bool Valid(const magicpig_pool& pool) const;

 private:
  void MergeLast(const magicpig_pool& pool);
  // Takes a tail that lies in a file out of it.
  void OwnTail();
  // Whether codes [tail_count][tables] have no more than `bits` bits.
  bool ValidCodes(const uint16_t* codes) const;
  // Writes the buckets of one query, in the order of QueryScratch::buckets.
  void LocateBuckets(const uint16_t* codes, Bucket* buckets) const;
  template <typename Counter>
  void QueryWith(const Kernels& kernels, const uint16_t* codes, size_t rows, size_t limit, uint32_t least, bool collisions,
                 QueryScratch& scratch, Found* found) const;

  TablesShape shape_;
  uint32_t tail_limit_;  // keys that the tail holds at most
  size_t size_ = 0;
  std::vector<Segment> segments_;
  uint32_t tail_count_ = 0;
  Column<uint16_t> tail_codes_;
  const uint16_t* tail_ = nullptr;  // [tail_count][tables], of tail_codes_
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_HEAD_INDEX_H_
