// Candidates: for each table the bucket of the query's code, a counter for each key, and the keys counted often enough. Bound by
// memory: a query reads some hundred short runs all over the tables, so all of them are asked for well before they are used.
#include <algorithm>
#include <cstring>

#include "head_index.h"

namespace magicpig::lsh {
namespace {

constexpr uint32_t kParts = Segment::kMostParts;
// Counters of a part; one more than keys, so that any 16-bit id has one.
constexpr size_t kPartCounters = size_t{Segment::kPartKeys} + 1;
// Counters of eight bits cannot overflow up to here.
constexpr uint32_t kMostTables8 = 255;
// Tables that are counted together while the buckets of the next ones are fetched. Counting right behind gathering would wait
// for the stores.
constexpr size_t kBatch = 32;
// Longer buckets are counted where they are.
constexpr uint32_t kLongBucket = 512;
constexpr size_t kLine = 64;

// Into L2, which takes many more fetches at a time than L1. Always inlined: GCC takes a function of prefetches alone for one
// without effects, and drops the call.
[[gnu::always_inline]] inline void Prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

// Lines of the bucket in all parts: from the first id of the first part to the last of the last, and those that a vector load
// at the start of a short one touches.
[[gnu::always_inline]] inline void PrefetchBucket(const Bucket* first, size_t parts_apart) {
  constexpr uint32_t kVector = 32;
  const Bucket& last = first[(kParts - 1) * parts_apart];
  const auto end = reinterpret_cast<uintptr_t>(last.ids + std::max(last.count, kVector));
  for (auto line = reinterpret_cast<uintptr_t>(first->ids) / kLine * kLine; line < end; line += kLine) {
    Prefetch(reinterpret_cast<const void*>(line));
  }
}

template <typename Counter>
void Count(Counter* counters, const uint16_t* ids, size_t n) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    uint64_t four;
    std::memcpy(&four, ids + i, sizeof four);
    ++counters[four & 0xffff];
    ++counters[four >> 16 & 0xffff];
    ++counters[four >> 32 & 0xffff];
    ++counters[four >> 48];
  }
  for (; i < n; ++i) ++counters[ids[i]];
}

size_t RoundUp(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

void HeadIndex::Query(const Kernels& kernels, const uint16_t* codes, size_t rows, size_t limit, uint32_t least, bool collisions,
                      QueryScratch& scratch, Found* found) const {
  if (shape_.tables <= kMostTables8) {
    QueryWith<uint8_t>(kernels, codes, rows, limit, least, collisions, scratch, found);
  } else {
    QueryWith<uint16_t>(kernels, codes, rows, limit, least, collisions, scratch, found);
  }
}

void HeadIndex::LocateBuckets(const uint16_t* codes, Bucket* buckets) const {
  const size_t tables = shape_.tables;
  for (const Segment& segment : segments_) {
    const uint32_t parts = segment.parts();
    const uint16_t* ids = segment.ids();
    for (size_t t = 0; t < tables; ++t, ids += segment.count()) {
      const uint16_t* start = segment.starts(t, codes[t]);
      uint32_t at = 0, count[kParts] = {}, sum = 0;
      for (uint32_t p = 0; p < parts; ++p) {
        at += start[p];
        sum += count[p] = static_cast<uint16_t>(start[parts + p] - start[p]);
      }
      // Always so, unless the tables are those of a damaged file.
      const bool good = at + sum <= segment.count();
      for (uint32_t p = 0; p < kParts; ++p) {
        buckets[p * tables + t] = {ids + (good ? at : 0), good ? count[p] : 0};
        at += count[p];
      }
    }
    buckets += kParts * tables;
  }
}

template <typename Counter>
void HeadIndex::QueryWith(const Kernels& kernels, const uint16_t* codes, size_t rows, size_t limit, uint32_t least,
                          bool collisions, QueryScratch& scratch, Found* found) const {
  const size_t tables = shape_.tables;
  limit = std::min(limit, size_);
  for (size_t row = 0; row < rows; ++row) {
    found[row].ids.Reserve(limit + kCollectSlack, 0);
    if (collisions) found[row].collisions.Reserve(limit, 0);
  }
  const size_t counters_bytes = RoundUp(kPartCounters, kLine) * kParts * sizeof(Counter);
  if (!segments_.empty() && scratch.counters.size() < counters_bytes) {
    scratch.counters = Buffer<uint8_t>(counters_bytes);
    std::memset(scratch.counters.data(), 0, counters_bytes);
  }
  auto* const counters = reinterpret_cast<Counter*>(scratch.counters.data());
  for (Buffer<Bucket>& each : scratch.buckets) each.Reserve(segments_.size() * kParts * tables, 0);
  scratch.ids.Reserve(kBatch * kLongBucket + kGatherSlack, 0);

  const auto prefetch_starts = [&](size_t row) __attribute__((always_inline)) {
    for (const Segment& segment : segments_) {
      for (size_t t = 0; t < tables; ++t) {
        const uint16_t* start = segment.starts(t, codes[row * tables + t]);
        Prefetch(start);
        Prefetch(start + 2 * segment.parts() - 1);
      }
    }
  };
  // Tables are fetched in batches, through all segments.
  const size_t batches = (tables + kBatch - 1) / kBatch, all_batches = batches * segments_.size();
  const auto fetch = [&](const Bucket* buckets, size_t batch) __attribute__((always_inline)) {
    if (batch >= all_batches) return;
    const Bucket* first = buckets + batch / batches * kParts * tables;
    const size_t begin = batch % batches * kBatch, end = std::min(begin + kBatch, tables);
    for (size_t t = begin; t < end; ++t) PrefetchBucket(first + t, tables);
  };
  const auto count = [&](Counter* to, const Bucket* next, const Bucket* end) {
    while (next < end) {
      const Bucket* run = next;
      while (run < end && run->count <= kLongBucket) ++run;
      Count(to, scratch.ids.data(), kernels.gather(next, static_cast<size_t>(run - next), scratch.ids.data()));
      if (run < end) Count(to, run->ids, run->count), ++run;
      next = run;
    }
  };

  // Moves the keys of a part that were counted often enough to `out`, and clears its counters.
  const auto collect = [&](Counter* from, const Segment& segment, uint32_t part, size_t base, Found& out) {
    const size_t n = RoundUp(segment.part_count(part), kLine), below = std::min<size_t>(segment.part_count(part), limit - base);
    uint32_t* ids = out.ids.data() + out.count;
    if (collisions) {
      for (size_t i = 0; i < below; ++i) {
        if (from[i] < least) continue;
        out.collisions[out.count] = from[i];
        out.ids[out.count++] = static_cast<uint32_t>(base + i);
      }
      std::memset(from, 0, n * sizeof(Counter));
    } else if constexpr (sizeof(Counter) == 1) {
      out.count += kernels.collect8(from, n, below, least, static_cast<uint32_t>(base), ids);
    } else {
      out.count += kernels.collect16(from, n, below, least, static_cast<uint32_t>(base), ids);
    }
    // Ids beyond the part's count exist in damaged files only, which are never looked at as a whole.
    if (!segment.owned()) std::memset(from + n, 0, (kPartCounters - n) * sizeof(Counter));
  };

  Bucket *buckets = scratch.buckets[0].data(), *next_buckets = scratch.buckets[1].data();
  prefetch_starts(0);
  if (rows > 1) prefetch_starts(1);
  LocateBuckets(codes, buckets);
  fetch(buckets, 0);
  for (size_t row = 0; row < rows; ++row, std::swap(buckets, next_buckets)) {
    if (row + 1 < rows) LocateBuckets(codes + (row + 1) * tables, next_buckets);
    if (row + 2 < rows) prefetch_starts(row + 2);
    Found& out = found[row];
    out.count = 0;
    size_t base = 0, batch = 0;
    for (size_t s = 0; s < segments_.size() && base < limit; base += segments_[s++].count()) {
      const Segment& segment = segments_[s];
      const Bucket* first = buckets + s * kParts * tables;
      const auto parts = static_cast<uint32_t>((std::min<size_t>(segment.count(), limit - base) + Segment::kPartKeys - 1) /
                                               Segment::kPartKeys);
      for (size_t begin = 0; begin < tables; begin += kBatch) {
        fetch(buckets, ++batch);
        const size_t end = std::min(begin + kBatch, tables);
        for (uint32_t p = 0; p < parts; ++p) {
          count(counters + p * kPartCounters, first + p * tables + begin, first + p * tables + end);
        }
      }
      if (base + segment.count() >= limit && row + 1 < rows) fetch(next_buckets, 0);
      for (uint32_t p = 0; p < parts; ++p) {
        collect(counters + p * kPartCounters, segment, p, base + size_t{p} * Segment::kPartKeys, out);
      }
    }
    const uint16_t* listed = tail_;
    for (size_t id = size_ - tail_count_; id < limit; ++id, listed += tables) {
      const size_t equal = kernels.equal(listed, codes + row * tables, tables);
      if (equal < least) continue;
      if (collisions) out.collisions[out.count] = static_cast<uint16_t>(equal);
      out.ids[out.count++] = static_cast<uint32_t>(id);
    }
  }
}

}  // namespace magicpig::lsh
