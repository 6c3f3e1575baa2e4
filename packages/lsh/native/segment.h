// A run of keys, sorted by bucket in every table.
#ifndef MAGICPIG_LSH_SEGMENT_H_
#define MAGICPIG_LSH_SEGMENT_H_

#include <cstddef>
#include <cstdint>

#include "../include/magicpig/pool.h"
#include "buffer.h"
#include "column.h"

namespace magicpig::lsh {

struct TablesShape {
  uint32_t bits, tables;
  uint32_t buckets() const { return 1u << bits; }
};

// Ids are relative to a part of at most kPartKeys keys, so that they fit in 16 bits; the ids of a bucket lie one behind the
// other, part after part, so that a query reads one run of memory for all parts. Once made, a segment does not change; its copies
// share its memory.
class Segment {
 public:
  static constexpr uint32_t kPartKeys = 65535;
  static constexpr uint32_t kMostParts = 2;
  static constexpr uint32_t kMostKeys = kMostParts * kPartKeys;

  // Uninitialised. Throws std::bad_alloc.
  Segment(TablesShape shape, uint32_t count);
  // In memory of somebody else.
  Segment(TablesShape shape, uint32_t count, const uint16_t* starts, const uint16_t* ids);

  const uint32_t& count() const { return count_; }
  uint32_t parts() const { return Parts(count_); }
  uint32_t part_count(uint32_t part) const { return part + 1 < parts() ? kPartKeys : count_ - part * kPartKeys; }
  static uint32_t Parts(uint32_t count) { return (count + kPartKeys - 1) / kPartKeys; }

  // [tables][buckets + 1][parts]: keys of the part in the buckets before this one.
  const uint16_t* starts() const { return starts_.data(); }
  size_t starts_size() const { return StartsSize(shape_, count_); }
  static size_t StartsSize(TablesShape shape, uint32_t count) {
    return size_t{shape.tables} * (shape.buckets() + 1) * Parts(count);
  }
  // [tables][count]: by bucket, then by part, then ascending.
  const uint16_t* ids() const { return ids_.data(); }
  size_t ids_size() const { return size_t{shape_.tables} * count_; }
  // Whether it is in memory of its own, and thereby Valid.
  bool owned() const { return ids_.owned(); }
  // Of bytes that are its own, its part: see Column.
  size_t share() const { return starts_.share() + ids_.share(); }

  const uint16_t* starts(size_t table, uint32_t bucket) const {
    return starts() + (table * (shape_.buckets() + 1) + bucket) * parts();
  }

  // How a segment is made: codes of its keys go where the ids will be, [tables][count], and Sort turns them into ids, table by
  // table.
  uint16_t* codes(size_t table) { return ids_.mutable_data() + table * count_; }
  // Space for Sort; one for each thread.
  struct SortScratch {
    SortScratch(TablesShape shape, uint32_t count) : codes(count), places(size_t{shape.buckets()} * Parts(count)) {}
    Buffer<uint16_t> codes;   // [count]
    Buffer<uint32_t> places;  // [parts][buckets]
  };
  // Counting sort of one table.
  void Sort(size_t table, SortScratch& scratch);
  // The same, in memory of its own. Throws std::bad_alloc.
  Segment Copy(const magicpig_pool& pool) const;
  // The keys of all segments (at most kMostKeys), in order.
  static Segment Merge(const magicpig_pool& pool, TablesShape shape, const Segment* segments, size_t n);
  // The first `count` keys.
  Segment Cut(const magicpig_pool& pool, uint32_t count) const;
  // Writes the codes [count][tables] of the first `count` keys.
  void Codes(uint32_t count, uint16_t* codes) const;
  // The first table that does not hold every key once and in order, or the number of tables.
  uint32_t InvalidTable(const magicpig_pool& pool) const;
  bool Valid(const magicpig_pool& pool) const { return InvalidTable(pool) == shape_.tables; }

 private:
  // Calls f(key) for the keys of a bucket, ascending, until it returns false.
  template <typename F>
  void ForEach(size_t table, uint32_t bucket, F&& f) const;
  class TableWriter;
  bool ValidTable(size_t table) const;

  TablesShape shape_;
  uint32_t count_;
  Column<uint16_t> starts_, ids_;
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_SEGMENT_H_
