#include "head_index.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "../include/magicpig/thread_pool.h"

namespace magicpig::lsh {
namespace {

// Comparing a query with this many codes costs about as much as looking into one more segment.
constexpr uint32_t kTailKeys = 1024;
constexpr uint32_t kMostTailKeys = 8192;
// Counters of eight bits cannot overflow up to here.
constexpr uint32_t kMostTables8 = 255;
// Buckets that are counted together while the next ones are fetched from memory. Fetching and counting share the few
// buffers for lines on their way to L1, so that alternating in larger steps is faster than one prefetch now and then.
constexpr size_t kBatch = 32;
// Longer buckets are counted where they are.
constexpr uint32_t kLongBucket = 512;

// Into L2. Always inlined: GCC takes a function of prefetches alone for one without effects, and drops the call.
[[gnu::always_inline]] inline void Prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

// The first four lines without a test for each (the last one again, if there are fewer): the number of lines is hard to
// predict.
[[gnu::always_inline]] inline void PrefetchBucket(const Bucket& bucket) {
  constexpr size_t kLine = 64, kLines = 4;
  const char* first = reinterpret_cast<const char*>(bucket.ids);
  const char* last = first + (bucket.count == 0 ? 0 : bucket.count * sizeof *bucket.ids - 1);
  for (size_t line = 0; line < kLines; ++line) Prefetch(std::min(first + line * kLine, last));
  for (const char* at = first + kLines * kLine; at <= last; at += kLine) Prefetch(at);
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

HeadIndex::HeadIndex(uint32_t bits, uint32_t tables)
    : bits_(bits),
      tables_(tables),
      // A segment should not hold far fewer keys than it has buckets.
      tail_limit_(std::clamp(buckets() / 4, kTailKeys, kMostTailKeys)) {}

size_t HeadIndex::bytes() const {
  size_t sum = sizeof(HeadIndex) + segments_.capacity() * sizeof(Segment) + tail_.bytes();
  for (const Segment& segment : segments_) sum += segment.starts.bytes() + segment.ids.bytes();
  return sum;
}

Segment HeadIndex::Allocate(uint32_t count) const {
  Segment segment;
  segment.count = count;
  segment.starts = Buffer<uint16_t>(size_t{tables_} * (buckets() + 1));
  segment.ids = Buffer<uint16_t>(size_t{tables_} * count);
  return segment;
}

void HeadIndex::Sort(Segment& segment, uint32_t t, const uint16_t* codes) const {
  uint16_t* starts = segment.starts.data() + size_t{t} * (buckets() + 1);
  uint16_t* ids = segment.ids.data() + size_t{t} * segment.count;
  std::memset(starts, 0, buckets() * sizeof *starts);
  for (uint32_t i = 0; i < segment.count; ++i) ++starts[codes[i]];
  uint32_t sum = 0;
  for (uint32_t b = 0; b < buckets(); ++b) starts[b] = static_cast<uint16_t>(sum += starts[b]);
  starts[buckets()] = static_cast<uint16_t>(segment.count);
  // From the ends of the buckets backwards, which leaves the starts.
  for (uint32_t i = segment.count; i-- > 0;) ids[--starts[codes[i]]] = static_cast<uint16_t>(i);
}

bool HeadIndex::Append(const magicpig_pool& pool, size_t n, const Fill& fill) {
  const size_t pending = tail_count_ + n;
  // The rows of the tail come first, then the new ones.
  const auto fill_rows = [&](size_t begin, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride,
                             uint32_t thread) {
    size_t row = 0;
    for (; row < rows && begin + row < tail_count_; ++row) {
      for (size_t t = 0; t < tables_; ++t) {
        codes[row * row_stride + t * table_stride] = tail_[(begin + row) * tables_ + t];
      }
    }
    return row == rows ||
           fill(begin + row - tail_count_, rows - row, codes + row * row_stride, row_stride, table_stride, thread);
  };
  const auto fill_all = [&](size_t begin, size_t count, uint16_t* codes, size_t row_stride, size_t table_stride) {
    std::atomic<bool> good{true};
    ParallelFor(pool, static_cast<uint32_t>((count + kFillRows - 1) / kFillRows), [&](uint32_t task, uint32_t thread) {
      const size_t first = task * kFillRows;
      if (!fill_rows(begin + first, std::min(kFillRows, count - first), codes + first * row_stride, row_stride, table_stride,
                     thread)) {
        good.store(false, std::memory_order_relaxed);
      }
    });
    return good.load();
  };

  if (pending <= tail_limit_) {
    tail_.Reserve(pending * tables_, size_t{tail_count_} * tables_);
    uint16_t* codes = tail_.data() + size_t{tail_count_} * tables_;
    std::atomic<bool> good{true};
    ParallelFor(pool, static_cast<uint32_t>((n + kFillRows - 1) / kFillRows), [&](uint32_t task, uint32_t thread) {
      const size_t first = task * kFillRows;
      if (!fill(first, std::min(kFillRows, n - first), codes + first * tables_, tables_, 1, thread)) good = false;
    });
    if (!good) return false;
    tail_count_ = static_cast<uint32_t>(pending);
    size_ += n;
    return true;
  }

  std::vector<Segment> made;
  size_t done = 0;
  while (pending - done > (done == 0 ? 0 : tail_limit_)) {
    const auto count = static_cast<uint32_t>(std::min<size_t>(pending - done, kSegmentKeys));
    Segment segment = Allocate(count);
    Buffer<uint16_t> codes(size_t{count} * tables_);  // [tables][count]
    if (!fill_all(done, count, codes.data(), 1, count)) return false;
    ParallelFor(pool, tables_, [&](uint32_t t, uint32_t) { Sort(segment, t, codes.data() + size_t{t} * count); });
    made.push_back(std::move(segment));
    done += count;
  }
  Buffer<uint16_t> tail((pending - done) * tables_);
  if (!fill_all(done, pending - done, tail.data(), tables_, 1)) return false;
  segments_.reserve(segments_.size() + made.size());

  for (Segment& segment : made) segments_.push_back(std::move(segment));
  tail_ = std::move(tail);
  tail_count_ = static_cast<uint32_t>(pending - done);
  size_ += n;
  MergeLast(pool);
  return true;
}

void HeadIndex::MergeLast(const magicpig_pool& pool) {
  size_t first = segments_.size() - 1;
  uint32_t total = segments_[first].count;
  while (first > 0 && segments_[first - 1].count / kMergeRatio < total && segments_[first - 1].count + total <= kSegmentKeys) {
    total += segments_[--first].count;
  }
  if (first + 1 == segments_.size()) return;
  try {
    segments_[first] = Merge(pool, segments_.data() + first, segments_.size() - first);
  } catch (const std::bad_alloc&) {
    return;  // the segments are as good, only slower to query; a later append tries again
  }
  segments_.resize(first + 1);
}

Segment HeadIndex::Merge(const magicpig_pool& pool, const Segment* segments, size_t count) const {
  uint32_t total = 0;
  for (size_t s = 0; s < count; ++s) total += segments[s].count;
  Segment merged = Allocate(total);
  ParallelFor(pool, tables_, [&](uint32_t t, uint32_t) {
    uint16_t* starts = merged.starts.data() + size_t{t} * (buckets() + 1);
    uint16_t* ids = merged.ids.data() + size_t{t} * total;
    uint32_t at = 0;
    for (uint32_t b = 0; b < buckets(); ++b) {
      starts[b] = static_cast<uint16_t>(at);
      uint32_t base = 0;
      for (size_t s = 0; s < count; ++s) {
        const uint16_t* from = segments[s].starts.data() + size_t{t} * (buckets() + 1) + b;
        const uint16_t* theirs = segments[s].ids.data() + size_t{t} * segments[s].count;
        for (uint32_t i = from[0]; i < from[1]; ++i) ids[at++] = static_cast<uint16_t>(theirs[i] + base);
        base += segments[s].count;
      }
    }
    starts[buckets()] = static_cast<uint16_t>(total);
  });
  return merged;
}

void HeadIndex::Truncate(const magicpig_pool& pool, size_t size) {
  if (size >= size_) return;
  const size_t sorted = size_ - tail_count_;
  if (size >= sorted) {
    tail_count_ = static_cast<uint32_t>(size - sorted);
    size_ = size;
    return;
  }
  size_t keep = 0, base = 0;  // segments that stay whole, and their keys
  while (base + segments_[keep].count <= size) base += segments_[keep++].count;
  const auto rest = static_cast<uint32_t>(size - base);
  const Segment& cut = segments_[keep];
  if (rest > tail_limit_) {
    Segment shorter = Allocate(rest);
    ParallelFor(pool, tables_, [&](uint32_t t, uint32_t) {
      const uint16_t* from = cut.starts.data() + size_t{t} * (buckets() + 1);
      const uint16_t* theirs = cut.ids.data() + size_t{t} * cut.count;
      uint16_t* starts = shorter.starts.data() + size_t{t} * (buckets() + 1);
      uint16_t* ids = shorter.ids.data() + size_t{t} * rest;
      uint32_t at = 0;
      for (uint32_t b = 0; b < buckets(); ++b) {
        starts[b] = static_cast<uint16_t>(at);
        for (uint32_t i = from[b]; i < from[b + 1] && theirs[i] < rest; ++i) ids[at++] = theirs[i];
      }
      starts[buckets()] = static_cast<uint16_t>(rest);
    });
    segments_[keep++] = std::move(shorter);
    tail_count_ = 0;
  } else {
    // Too few for a segment: back to plain codes.
    Buffer<uint16_t> tail(size_t{rest} * tables_);
    for (size_t t = 0; t < tables_; ++t) {
      const uint16_t* from = cut.starts.data() + t * (buckets() + 1);
      const uint16_t* theirs = cut.ids.data() + t * cut.count;
      for (uint32_t b = 0; b < buckets(); ++b) {
        for (uint32_t i = from[b]; i < from[b + 1] && theirs[i] < rest; ++i) {
          tail[size_t{theirs[i]} * tables_ + t] = static_cast<uint16_t>(b);
        }
      }
    }
    tail_ = std::move(tail);
    tail_count_ = rest;
  }
  segments_.resize(keep);
  size_ = size;
}

size_t HeadIndex::Query(const Kernels& kernels, const uint16_t* codes, size_t limit, uint32_t least, QueryScratch& scratch,
                        Buffer<uint32_t>& ids, Buffer<uint16_t>* collisions) const {
  return tables_ <= kMostTables8 ? QueryWith<uint8_t>(kernels, codes, limit, least, scratch, ids, collisions)
                                 : QueryWith<uint16_t>(kernels, codes, limit, least, scratch, ids, collisions);
}

template <typename Counter>
size_t HeadIndex::QueryWith(const Kernels& kernels, const uint16_t* codes, size_t limit, uint32_t least,
                            QueryScratch& scratch, Buffer<uint32_t>& ids, Buffer<uint16_t>* collisions) const {
  limit = std::min(limit, size_);
  ids.Reserve(limit + kCollectSlack, 0);
  if (collisions != nullptr) collisions->Reserve(limit, 0);
  if (!segments_.empty() && scratch.counters.size() < RoundUp(kSegmentKeys, 64) * sizeof(Counter)) {
    scratch.counters = Buffer<uint8_t>(RoundUp(kSegmentKeys, 64) * sizeof(Counter));
    std::memset(scratch.counters.data(), 0, scratch.counters.size());
  }
  scratch.buckets.Reserve(segments_.size() * tables_, 0);
  scratch.ids.Reserve(kBatch * kLongBucket + kGatherSlack, 0);
  auto* counters = reinterpret_cast<Counter*>(scratch.counters.data());

  const size_t stride = buckets() + 1;
  for (const Segment& segment : segments_) {
    for (size_t t = 0; t < tables_; ++t) Prefetch(segment.starts.data() + t * stride + codes[t]);
  }
  Bucket* end = scratch.buckets.data();
  for (const Segment& segment : segments_) {
    for (size_t t = 0; t < tables_; ++t) {
      const uint16_t* start = segment.starts.data() + t * stride + codes[t];
      *end++ = {segment.ids.data() + t * segment.count + start[0], static_cast<uint32_t>(start[1] - start[0])};
    }
  }

  const Bucket* next = scratch.buckets.data();  // to be counted
  const Bucket* ahead = next;                   // to be fetched
  const auto fetch = [&]() __attribute__((always_inline)) {
    for (const Bucket* stop = std::min<const Bucket*>(ahead + kBatch, end); ahead < stop; ++ahead) PrefetchBucket(*ahead);
  };
  fetch();
  size_t found = 0, base = 0;
  for (const Segment& segment : segments_) {
    if (base >= limit) break;
    for (const Bucket* stop = next + tables_; next < stop;) {
      fetch();
      // A batch ends early at a long bucket.
      const Bucket* last = std::min(next + kBatch, stop);
      const Bucket* batch = next;
      while (next < last && next->count <= kLongBucket) ++next;
      Count(counters, scratch.ids.data(), kernels.gather(batch, static_cast<size_t>(next - batch), scratch.ids.data()));
      if (next < last) {
        Count(counters, next->ids, next->count);
        ++next;
      }
    }
    const size_t n = RoundUp(segment.count, 64), below = std::min<size_t>(segment.count, limit - base);
    if (collisions != nullptr) {
      for (size_t i = 0; i < below; ++i) {
        if (counters[i] < least) continue;
        (*collisions)[found] = counters[i];
        ids[found++] = static_cast<uint32_t>(base + i);
      }
      std::memset(counters, 0, n * sizeof(Counter));
    } else if constexpr (sizeof(Counter) == 1) {
      found += kernels.collect8(counters, n, below, least, static_cast<uint32_t>(base), ids.data() + found);
    } else {
      found += kernels.collect16(counters, n, below, least, static_cast<uint32_t>(base), ids.data() + found);
    }
    base += segment.count;
  }
  for (; base < limit; ++base) {
    const size_t row = base - (size_ - tail_count_);
    const size_t equal = kernels.equal(tail_.data() + row * tables_, codes, tables_);
    if (equal < least) continue;
    if (collisions != nullptr) (*collisions)[found] = static_cast<uint16_t>(equal);
    ids[found++] = static_cast<uint32_t>(base);
  }
  return found;
}

}  // namespace magicpig::lsh
