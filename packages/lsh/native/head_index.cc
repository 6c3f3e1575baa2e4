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

// A segment should not hold far fewer keys than it has buckets.
uint32_t TailLimit(TablesShape shape) { return std::clamp(shape.buckets() / 4, kTailKeys, kMostTailKeys); }

constexpr uint32_t kSegmentCounts = FourCc("SEGS"), kStarts = FourCc("STRT"), kIds = FourCc("IDS "), kTail = FourCc("TAIL");

}  // namespace

HeadIndex::HeadIndex(TablesShape shape) : shape_(shape), tail_limit_(TailLimit(shape)) {}

size_t HeadIndex::bytes() const {
  size_t sum = sizeof(HeadIndex) + segments_.capacity() * sizeof(Segment) + tail_codes_.share();
  for (const Segment& segment : segments_) sum += segment.share();
  return sum;
}

size_t HeadIndex::MostBytes(TablesShape shape, size_t n) {
  // Segments that could not be merged because the result would be too large: each with the one before holds more than
  // kMostKeys. Behind them, each at most a kMergeRatio-th of the one before.
  const size_t limit = TailLimit(shape);
  size_t segments = n > Segment::kMostKeys ? 2 * (n / Segment::kMostKeys) : 0;
  for (size_t rest = std::min<size_t>(n, Segment::kMostKeys); rest > limit; rest /= kMergeRatio) ++segments;
  const size_t parts = n / Segment::kPartKeys + segments;
  const size_t tail = std::min(n, limit);
  return sizeof(HeadIndex) + (2 * segments + 4) * sizeof(Segment) +
         sizeof(uint16_t) * (parts * Segment::StartsSize(shape, 1) + size_t{shape.tables} * (n + tail / 8));
}

HeadIndex::Occupancy HeadIndex::occupancy() const {
  Occupancy sum{};
  std::vector<uint32_t> counts(shape_.buckets());
  for (size_t t = 0; t < shape_.tables; ++t) {
    std::fill(counts.begin(), counts.end(), 0);
    for (const Segment& segment : segments_) {
      for (uint32_t b = 0; b < shape_.buckets(); ++b) {
        const uint16_t* start = segment.starts(t, b);
        for (uint32_t p = 0; p < segment.parts(); ++p) counts[b] += static_cast<uint16_t>(start[segment.parts() + p] - start[p]);
      }
    }
    for (size_t i = 0; i < tail_count_; ++i) ++counts[tail_[i * shape_.tables + t] & (shape_.buckets() - 1)];
    for (const uint64_t count : counts) {
      sum.occupied += count > 0;
      sum.largest = std::max(sum.largest, count);
      sum.squares += count * count;
    }
  }
  return sum;
}

bool HeadIndex::Append(const magicpig_pool& pool, size_t n, const Fill& fill) {
  OwnTail();
  const size_t tables = shape_.tables, pending = tail_count_ + n;
  // Calls make(first, rows, thread) for pieces of `count` rows until one call is false.
  const auto in_pieces = [&](size_t count, auto&& make) {
    std::atomic<bool> good{true};
    ParallelFor(pool, static_cast<uint32_t>((count + kFillRows - 1) / kFillRows), [&](uint32_t task, uint32_t thread) {
      const size_t first = task * kFillRows;
      if (good.load(std::memory_order_relaxed) && !make(first, std::min(kFillRows, count - first), thread)) {
        good.store(false, std::memory_order_relaxed);
      }
    });
    return good.load();
  };
  // Codes of pending keys [begin, begin + rows), those of the tail first.
  const auto codes_of = [&](size_t begin, size_t rows, uint16_t* codes, size_t row_stride, size_t table_stride,
                            uint32_t thread) {
    size_t row = 0;
    for (; row < rows && begin + row < tail_count_; ++row) {
      const uint16_t* listed = tail_ + (begin + row) * tables;
      for (size_t t = 0; t < tables; ++t) codes[row * row_stride + t * table_stride] = listed[t];
    }
    return row == rows ||
           fill(begin + row - tail_count_, rows - row, codes + row * row_stride, row_stride, table_stride, thread);
  };
  // Appends pending keys [begin, begin + rows) to a list of plain codes.
  const auto list = [&](size_t begin, size_t rows, uint16_t* codes) {
    return in_pieces(rows, [&](size_t first, size_t count, uint32_t thread) {
      return codes_of(begin + first, count, codes + first * tables, tables, 1, thread);
    });
  };

  if (pending <= tail_limit_) {
    uint16_t* const codes = tail_codes_.Reserve(pending * tables, tail_count_ * tables);
    tail_ = codes;
    if (!list(tail_count_, n, codes + tail_count_ * tables)) return false;
    tail_count_ = static_cast<uint32_t>(pending);
    size_ += n;
    return true;
  }

  std::vector<Segment> made;
  std::vector<Segment::SortScratch> scratches;
  // Codes of some rows, [tables][kFillRows]: filled column by column here, they would miss the caches.
  Buffer<uint16_t> staging(pool.threads * tables * kFillRows);
  size_t done = 0;
  while (pending - done > (done == 0 ? 0 : tail_limit_)) {
    const auto count = static_cast<uint32_t>(std::min<size_t>(pending - done, Segment::kMostKeys));
    Segment segment(shape_, count);
    scratches.clear();
    for (uint32_t thread = 0; thread < pool.threads; ++thread) scratches.emplace_back(shape_, count);
    const bool good = in_pieces(count, [&](size_t first, size_t rows, uint32_t thread) {
      uint16_t* codes = staging.data() + thread * tables * kFillRows;
      if (!codes_of(done + first, rows, codes, 1, kFillRows, thread)) return false;
      for (size_t t = 0; t < tables; ++t) std::memcpy(segment.codes(t) + first, codes + t * kFillRows, rows * sizeof *codes);
      return true;
    });
    if (!good) return false;
    ParallelFor(pool, shape_.tables, [&](uint32_t t, uint32_t thread) { segment.Sort(t, scratches[thread]); });
    made.push_back(std::move(segment));
    done += count;
  }
  Column<uint16_t> tail((pending - done) * tables);
  if (!list(done, pending - done, tail.mutable_data())) return false;
  segments_.reserve(segments_.size() + made.size());

  for (Segment& segment : made) segments_.push_back(std::move(segment));
  tail_codes_ = std::move(tail);
  tail_ = tail_codes_.data();
  tail_count_ = static_cast<uint32_t>(pending - done);
  size_ += n;
  MergeLast(pool);
  return true;
}

void HeadIndex::AppendCodes(const magicpig_pool& pool, size_t n, const uint16_t* codes) {
  const size_t tables = shape_.tables;
  Append(pool, n, [&](size_t begin, size_t rows, uint16_t* out, size_t row_stride, size_t table_stride, uint32_t) {
    // The caller's memory may be shared with a thread that changes it after a check.
    const auto mask = static_cast<uint16_t>(shape_.buckets() - 1);
    for (size_t row = 0; row < rows; ++row) {
      const uint16_t* from = codes + (begin + row) * tables;
      for (size_t t = 0; t < tables; ++t) out[row * row_stride + t * table_stride] = from[t] & mask;
    }
    return true;
  });
}

void HeadIndex::AppendSegment(const magicpig_pool& pool, Segment segment) {
  const uint32_t n = segment.count();
  if (tail_count_ == 0 && n > tail_limit_) {
    segments_.push_back(std::move(segment));
    size_ += n;
    MergeLast(pool);
    return;
  }
  // Too few for a segment, or there are listed ones before them, which would be too few.
  Buffer<uint16_t> codes(n * size_t{shape_.tables});
  segment.Codes(n, codes.data());
  AppendCodes(pool, n, codes.data());
}

void HeadIndex::OwnTail() {
  if (tail_count_ == 0 || tail_codes_.owned()) return;
  auto codes = Column<uint16_t>::Copy(tail_, size_t{tail_count_} * shape_.tables);
  if (!ValidCodes(codes.data())) throw Corrupt("The file's tables are malformed.");
  tail_codes_ = std::move(codes);
  tail_ = tail_codes_.data();
}

void HeadIndex::MergeLast(const magicpig_pool& pool) {
  size_t first = segments_.size() - 1;
  uint32_t total = segments_[first].count();
  // What lies in a file stays there.
  while (first > 0 && segments_[first - 1].owned() && segments_[first - 1].count() / kMergeRatio < total &&
         segments_[first - 1].count() + total <= Segment::kMostKeys) {
    total += segments_[--first].count();
  }
  if (first + 1 == segments_.size()) return;
  try {
    segments_[first] = Segment::Merge(pool, shape_, segments_.data() + first, segments_.size() - first);
  } catch (const std::bad_alloc&) {
    return;  // the segments are as good, only slower to query; a later append tries again
  }
  segments_.erase(segments_.begin() + static_cast<ptrdiff_t>(first) + 1, segments_.end());
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
  while (base + segments_[keep].count() <= size) base += segments_[keep++].count();
  const auto rest = static_cast<uint32_t>(size - base);
  Segment partial = segments_[keep];
  if (rest > 0 && !partial.owned()) {
    partial = partial.Copy(pool);
    if (!partial.Valid(pool)) throw Corrupt("The file's tables are malformed.");
  }
  Column<uint16_t> tail;
  if (rest > tail_limit_) {
    segments_[keep++] = partial.Cut(pool, rest);
  } else if (rest > 0) {
    // Too few for a segment: back to plain codes.
    tail = Column<uint16_t>(size_t{rest} * shape_.tables);
    partial.Codes(rest, tail.mutable_data());
  }
  tail_count_ = rest > tail_limit_ ? 0 : rest;
  tail_codes_ = std::move(tail);
  tail_ = tail_codes_.data();
  segments_.erase(segments_.begin() + static_cast<ptrdiff_t>(keep), segments_.end());
  size_ = size;
}

void HeadIndex::Write(ContainerWriter& writer, uint32_t index) const {
  const size_t tables = shape_.tables;
  for (const Segment& segment : segments_) writer.Add(index, kIds, segment.ids(), segment.ids_size() * sizeof(uint16_t));
  if (tail_count_ > 0) writer.Add(index, kTail, tail_, tail_count_ * tables * sizeof(uint16_t));
  for (const Segment& segment : segments_) {
    writer.Add(index, kSegmentCounts, &segment.count(), sizeof(uint32_t));
    writer.Add(index, kStarts, segment.starts(), segment.starts_size() * sizeof(uint16_t));
  }
}

bool HeadIndex::ValidCodes(const uint16_t* codes) const {
  return std::all_of(codes, codes + size_t{tail_count_} * shape_.tables, [&](uint16_t code) { return code < shape_.buckets(); });
}

bool HeadIndex::Valid(const magicpig_pool& pool) const {
  return ValidCodes(tail_) &&
         std::all_of(segments_.begin(), segments_.end(), [&](const Segment& segment) { return segment.Valid(pool); });
}

HeadIndex HeadIndex::Read(const magicpig_pool& pool, TablesShape shape, const Container& file, uint32_t index, size_t size,
                          uint32_t segments, uint32_t tail, bool view) {
  const size_t tables = shape.tables;
  const uint32_t* counts = file.Get<uint32_t>(index, kSegmentCounts, segments);
  size_t keys = tail, starts_size = 0;
  for (uint32_t s = 0; s < segments; ++s) {
    if (counts[s] == 0 || counts[s] > Segment::kMostKeys) throw Corrupt("The file's segments are malformed.");
    keys += counts[s];
    starts_size += Segment::StartsSize(shape, counts[s]);
  }
  if (keys != size) throw Corrupt("The file's segments are malformed.");
  const uint16_t* starts = file.Get<uint16_t>(index, kStarts, starts_size);
  const uint16_t* ids = file.Get<uint16_t>(index, kIds, (size - tail) * tables);
  const uint16_t* codes = file.Get<uint16_t>(index, kTail, tail * tables);

  HeadIndex read(shape);
  read.size_ = size;
  read.tail_count_ = tail;
  if (tail > read.tail_limit_) throw Corrupt("The file's segments are malformed.");
  read.segments_.reserve(segments);
  for (uint32_t s = 0; s < segments; ++s) {
    const Segment mapped(shape, counts[s], starts, ids);
    starts += mapped.starts_size();
    ids += mapped.ids_size();
    if (view) {
      read.segments_.push_back(mapped);
    } else {
      read.segments_.push_back(mapped.Copy(pool));
    }
  }
  read.tail_codes_ = view ? Column<uint16_t>::View(codes) : Column<uint16_t>::Copy(codes, tail * tables);
  read.tail_ = read.tail_codes_.data();
  if (!view && !read.Valid(pool)) throw Corrupt("The file's tables are malformed.");
  return read;
}

}  // namespace magicpig::lsh
