#include "segment.h"

#include <atomic>
#include <bitset>
#include <cstring>
#include <utility>

#include "../include/magicpig/thread_pool.h"

namespace magicpig::lsh {

Segment::Segment(TablesShape shape, uint32_t count)
    : shape_(shape), count_(count), starts_(starts_size()), ids_(ids_size()) {}

Segment::Segment(TablesShape shape, uint32_t count, const uint16_t* starts, const uint16_t* ids)
    : shape_(shape), count_(count), starts_(Column<uint16_t>::View(starts)), ids_(Column<uint16_t>::View(ids)) {}

template <typename F>
void Segment::ForEach(size_t table, uint32_t bucket, F&& f) const {
  const uint32_t n = parts();
  const uint16_t* start = starts(table, bucket);
  const uint16_t* id = ids() + table * count_;
  for (uint32_t p = 0; p < n; ++p) id += start[p];
  for (uint32_t p = 0; p < n; ++p) {
    for (const uint16_t* end = id + (start[n + p] - start[p]); id < end; ++id) {
      if (!f(p * kPartKeys + *id)) return;
    }
  }
}

// Fills one table, bucket by bucket.
class Segment::TableWriter {
 public:
  TableWriter(Segment& segment, size_t table)
      : parts_(segment.parts()),
        start_(segment.starts_.mutable_data() + table * (segment.shape_.buckets() + 1) * parts_),
        id_(segment.codes(table)) {
    EndBucket();
  }
  void Put(uint32_t key) {
    const uint32_t part = key / kPartKeys;
    *id_++ = static_cast<uint16_t>(key - part * kPartKeys);
    ++sums_[part];
  }
  void EndBucket() {
    for (uint32_t p = 0; p < parts_; ++p) *start_++ = static_cast<uint16_t>(sums_[p]);
  }

 private:
  uint32_t parts_;
  uint16_t* start_;
  uint16_t* id_;
  uint32_t sums_[kMostParts] = {};
};

void Segment::Sort(size_t table, SortScratch& scratch) {
  const uint32_t n = parts(), buckets = shape_.buckets();
  uint16_t* const ids = codes(table);
  const uint16_t* const code_of = scratch.codes.data();
  uint32_t* const places = scratch.places.data();
  std::memcpy(scratch.codes.data(), ids, count_ * sizeof *ids);
  std::memset(places, 0, scratch.places.bytes());
  // Calls f(place of the key's bucket, key within its part) for every key.
  const auto for_each = [&](auto&& f) {
    for (uint32_t p = 0; p < n; ++p) {
      const uint16_t* code = code_of + size_t{p} * kPartKeys;
      uint32_t* const of_part = places + size_t{p} * buckets;
      for (uint32_t i = 0, end = part_count(p); i < end; ++i) f(of_part[code[i]], i);
    }
  };
  for_each([](uint32_t& place, uint32_t) { ++place; });
  uint16_t* start = starts_.mutable_data() + table * (buckets + 1) * n;
  uint32_t sums[kMostParts] = {}, sum = 0;
  for (uint32_t b = 0; b < buckets; ++b) {
    for (uint32_t p = 0; p < n; ++p) {
      const uint32_t size = std::exchange(places[size_t{p} * buckets + b], sum);
      *start++ = static_cast<uint16_t>(sums[p]);
      sums[p] += size;
      sum += size;
    }
  }
  for (uint32_t p = 0; p < n; ++p) *start++ = static_cast<uint16_t>(sums[p]);
  for_each([ids](uint32_t& place, uint32_t key) { ids[place++] = static_cast<uint16_t>(key); });
}

Segment Segment::Copy(const magicpig_pool& pool) const {
  Segment copy(shape_, count_);
  const size_t table_starts = starts_size() / shape_.tables;
  ParallelFor(pool, shape_.tables, [&](uint32_t table, uint32_t) {
    std::memcpy(copy.starts_.mutable_data() + table * table_starts, starts() + table * table_starts, table_starts * sizeof(uint16_t));
    std::memcpy(copy.codes(table), ids() + size_t{table} * count_, count_ * sizeof(uint16_t));
  });
  return copy;
}

Segment Segment::Merge(const magicpig_pool& pool, TablesShape shape, const Segment* segments, size_t n) {
  uint32_t total = 0;
  for (size_t s = 0; s < n; ++s) total += segments[s].count_;
  Segment merged(shape, total);
  ParallelFor(pool, shape.tables, [&](uint32_t table, uint32_t) {
    TableWriter writer(merged, table);
    for (uint32_t b = 0; b < shape.buckets(); ++b) {
      uint32_t base = 0;
      for (size_t s = 0; s < n; ++s) {
        segments[s].ForEach(table, b, [&](uint32_t key) { return writer.Put(base + key), true; });
        base += segments[s].count_;
      }
      writer.EndBucket();
    }
  });
  return merged;
}

Segment Segment::Cut(const magicpig_pool& pool, uint32_t count) const {
  Segment shorter(shape_, count);
  ParallelFor(pool, shape_.tables, [&](uint32_t table, uint32_t) {
    TableWriter writer(shorter, table);
    for (uint32_t b = 0; b < shape_.buckets(); ++b) {
      ForEach(table, b, [&](uint32_t key) { return key < count && (writer.Put(key), true); });
      writer.EndBucket();
    }
  });
  return shorter;
}

void Segment::Codes(uint32_t count, uint16_t* codes) const {
  for (size_t table = 0; table < shape_.tables; ++table) {
    for (uint32_t b = 0; b < shape_.buckets(); ++b) {
      ForEach(table, b, [&](uint32_t key) {
        if (key >= count) return false;
        codes[size_t{key} * shape_.tables + table] = static_cast<uint16_t>(b);
        return true;
      });
    }
  }
}

uint32_t Segment::InvalidTable(const magicpig_pool& pool) const {
  std::atomic<uint32_t> first{shape_.tables};
  ParallelFor(pool, shape_.tables, [&](uint32_t table, uint32_t) {
    if (table > first.load(std::memory_order_relaxed) || ValidTable(table)) return;
    uint32_t before = first.load(std::memory_order_relaxed);
    while (table < before && !first.compare_exchange_weak(before, table, std::memory_order_relaxed)) {
    }
  });
  return first;
}

bool Segment::ValidTable(size_t table) const {
  const uint32_t n = parts();
  for (uint32_t p = 0; p < n; ++p) {
    uint32_t before = 0;
    for (uint32_t b = 0; b <= shape_.buckets(); ++b) {
      const uint32_t start = starts(table, b)[p];
      if (start < before || (b == 0 && start != 0)) return false;
      before = start;
    }
    if (before != part_count(p)) return false;
  }
  // As many ids as keys, each below the count and none twice: so every key is there once.
  std::bitset<kMostKeys> seen;
  for (uint32_t b = 0; b < shape_.buckets(); ++b) {
    bool good = true;
    int64_t before = -1;
    ForEach(table, b, [&](uint32_t key) {
      good = key > before && key < count_ && !seen[key];
      if (good) seen[key] = true;
      before = key;
      return good;
    });
    if (!good) return false;
  }
  return true;
}

}  // namespace magicpig::lsh
