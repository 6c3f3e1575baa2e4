// Key sketches: from the scores of all keys to the drawn ones.
#include "../device/warp.h"
#include "sketch_workspace.h"

namespace magicpig {
namespace {

constexpr int kThreads = kSketchPage / 8;  // eight keys each

// Scores of the eight keys from `first` on.
struct EightScores {
  uint4 vector;
  __device__ EightScores(const int16_t* scores, int64_t first) : vector(*reinterpret_cast<const uint4*>(scores + first)) {}
  __device__ int operator[](int i) const {
    const uint32_t pair = i < 2 ? vector.x : i < 4 ? vector.y : i < 6 ? vector.z : vector.w;
    return static_cast<int16_t>(pair >> (16 * (i % 2)));
  }
};

__device__ __forceinline__ int largest_score(const SketchQuery& query) { return static_cast<int>(query.largest) - 32769; }

// ---- Histogram --------------------------------------------------------------------------------------------------------

// Counts the depths of one page's keys below the largest score of a query head.
__global__ void __launch_bounds__(kThreads)
    count_kernel(uint32_t* histograms, const int16_t* scores, const SketchQuery* queries, SketchLengths lengths, int max_pages) {
  __shared__ uint32_t counts[kHistogramWords];
  const int page = static_cast<int>(blockIdx.x), sequence = static_cast<int>(blockIdx.z), keys = lengths[sequence];
  const int64_t head = static_cast<int64_t>(sequence) * gridDim.y + blockIdx.y;
  if (page * kSketchPage >= keys) return;
  for (int i = static_cast<int>(threadIdx.x); i < kHistogramWords; i += kThreads) counts[i] = 0;
  __syncthreads();
  const int first = page * kSketchPage + static_cast<int>(threadIdx.x) * 8;
  if (first < keys) {
    const EightScores eight(scores, head * max_pages * kSketchPage + first);
    const int largest = largest_score(queries[head]);
    const int counted = histogram_lanes(keys) - first % kHistogramRun;  // of these eight
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int depth = largest - eight[i];
      if (first + i < keys && i < counted) atomicAdd(counts + (depth < kSketchBins - 1 ? depth : kSketchBins - 1), 1u);
      if (first + i < keys && depth < kExactBins) atomicAdd(counts + kSketchBins + depth, 1u);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kHistogramWords; i += kThreads) {
    if (counts[i] != 0) atomicAdd(histograms + head * kHistogramWords + i, counts[i]);
  }
}

// ---- Thresholds -------------------------------------------------------------------------------------------------------

// Bins of the histogram, one to a thread.
struct Bins {
  int counts[kSketchBins];
  // Of this bin and those behind it: sums of w + floor, of w^2 / (w + floor) and of w^2, w being the bin's weight. When these are the keys
  // with pi < 1, the variance of the estimated total is ratios / tau - squares.
  double sums[kSketchBins + 1], ratios[kSketchBins + 1], squares[kSketchBins + 1];
  double totals[kSketchBins];  // counts w; then of this bin and those behind it
  int uncertain;               // bins from the first with pi < 1 on
  double tau;
};

// Replaces terms by their sums from the last on. Sums keep this order on every machine, so one thread adds them.
__device__ void sum_from_last(double* terms) {
  double sum = 0;
#pragma unroll 8
  for (int i = kSketchBins - 1; i >= 0; --i) {
    sum += terms[i];
    terms[i] = sum;
  }
}

// The first bin with tau (w + floor) <= 1, and tau, which differs from bin to bin; tau is kAllTau without one.
__device__ void solve(Bins& bins, double tau, double raised) {
  const int bin = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (bin == 0) {
    bins.uncertain = 0;
    bins.tau = kAllTau;
  }
  __syncthreads();
  if (tau * raised <= 1) atomicMax(&bins.uncertain, kSketchBins - bin);
  __syncthreads();
  if (bins.uncertain == kSketchBins - bin) bins.tau = tau;
  __syncthreads();
}

// A block of one thread a bin plans the draw of one query head. `samples` gets a count of no keys, which collect_kernel puts right.
__global__ void __launch_bounds__(kSketchBins)
    plan_kernel(uint32_t* samples, SketchLevels* levels, const uint32_t* histograms, const SketchQuery* queries, SketchLengths lengths,
                SketchWeights weights, int heads, SketchDraw draw) {
  __shared__ Bins bins;
  __shared__ int scratch[kWarp];
  const int64_t head = static_cast<int64_t>(blockIdx.y) * heads + blockIdx.x;
  const int keys = lengths[static_cast<int>(blockIdx.y)], bin = static_cast<int>(threadIdx.x);
  const SketchQuery& query = queries[head];
  uint32_t* sample = samples + head * sketch_sample_words(draw.room);
  if (keys <= 0 || query.usable == 0) {
    if (bin == 0) {
      sample[kSketchCountWord] = query.usable == 0 ? 0xffffffffu : 0u;
      sample[kSketchErrorWord] = 0;  // of float32 too
    }
    return;
  }

  // Few keys of large weights make much of the sum: all of the first bins are counted while they hold few of the counted keys.
  const uint32_t* histogram = histograms + head * kHistogramWords;
  const int some = static_cast<int>(histogram[bin]);
  int counted, exact, above;
  const int upto = block_prefix(some, scratch, counted) + some;
  __syncthreads();
  block_prefix(static_cast<int>(bin < kExactBins && int64_t{kExactShare} * upto <= counted), scratch, exact);
  const int in_bin = bin < exact ? static_cast<int>(histogram[kSketchBins + bin]) : some * (kHistogramRun / histogram_lanes(keys));
  __syncthreads();
  above = block_prefix(in_bin, scratch, counted);
  bins.counts[bin] = in_bin;

  const double count = in_bin, weight = weights.at[bin];
  bins.totals[bin] = count * weight;
  __syncthreads();
  if (bin == 0) sum_from_last(bins.totals);
  __syncthreads();
  const double total = bins.totals[0], floor = draw.floor_share * total / counted;
  const double raised = weight + floor, square = weight * weight;
  bins.sums[bin] = count * raised;
  bins.ratios[bin] = count * (square / raised);
  bins.squares[bin] = count * square;
  if (bin == 0) bins.sums[kSketchBins] = bins.ratios[kSketchBins] = bins.squares[kSketchBins] = 0;
  __syncthreads();
  if (bin < 3) sum_from_last(bin == 0 ? bins.sums : bin == 1 ? bins.ratios : bins.squares);
  __syncthreads();

  // Totals stand for all keys: a variance relative to the squared total shrinks as the keys grow.
  const double part = static_cast<double>(counted) / static_cast<double>(keys);
  const auto by_count = [&](double expected) {
    const double tau = (expected - above) / bins.sums[bin];
    solve(bins, expected >= counted ? kAllTau : tau, raised);
  };
  if (draw.budget.kind == SketchBudget::kError) {
    const double error = draw.budget.value / query.inflation;
    const double variance = error * error * total * total / part;
    solve(bins, bins.ratios[bin] / (variance + bins.squares[bin]), raised);
    const int certain = kSketchBins - bins.uncertain;
    double expected = bins.tau * bins.sums[certain];
    for (int i = 0; i < certain; ++i) expected += bins.counts[i];
    const double least = draw.budget.least * counted, most = draw.budget.most * counted;
    const double bounded = expected < least ? least : most < expected ? most : expected;
    if (bounded != expected || expected >= counted) by_count(bounded);
  } else {
    by_count(draw.budget.kind == SketchBudget::kShare ? draw.budget.value * counted : draw.budget.value * part);
  }

  const int first = kSketchBins - bins.uncertain, base = first > 0 ? first - 1 : 0;
  const double tau = bins.tau;
  SketchLevels& table = levels[head];
  if (bin < kSketchLevels) {
    const int at = base + bin < kSketchBins - 1 ? base + bin : kSketchBins - 1;
    const uint32_t threshold = sketch_threshold(tau * (weights.at[at] + floor));
    table.threshold[bin] = threshold;
    table.log[bin] = sketch_log(threshold);
  }
  if (bin == 0) {
    table.top = largest_score(query) - base;
    const double spread = bins.ratios[first] / tau - bins.squares[first];
    const double variance = (spread > 0 ? spread : 0.0) * part;
    sample[kSketchErrorWord] = float_to_bits(static_cast<float>(sqrt(variance) / total * query.inflation));
  }
}

// ---- Draws ------------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int level_of(int top, int score) {
  const int level = top - score;
  return level < 0 ? 0 : level < kSketchLevels ? level : kSketchLevels - 1;
}

// Which keys of a page the query heads of a KV head draw, and how many.
__global__ void __launch_bounds__(kThreads)
    mark_kernel(uint8_t* mask, uint32_t* counts, const int16_t* scores, const SketchQuery* queries, const SketchLevels* levels,
                SketchLengths lengths, const uint32_t* steps, int group, int max_pages, uint32_t first_head, uint64_t seed) {
  __shared__ uint32_t warp_counts[kThreads / kWarp];
  const int page = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y), sequence = static_cast<int>(blockIdx.z);
  const int keys = lengths[sequence];
  if (page * kSketchPage >= keys) return;
  const int first = page * kSketchPage + static_cast<int>(threadIdx.x) * 8;
  const auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  const uint32_t eight = static_cast<uint32_t>(first) / 8, random_head = first_head + static_cast<uint32_t>(kv_head), step = steps[sequence];
  const PhiloxWords words = philox({{eight, random_head, step, kDrawDomain}}, key0, key1);

  const int64_t heads = (static_cast<int64_t>(sequence) * gridDim.y + static_cast<unsigned>(kv_head)) * group;
  for (int64_t head = heads; head < heads + group; ++head) {
    uint32_t drawn = 0;
    if (queries[head].usable != 0 && first < keys) {
      const SketchLevels& table = levels[head];
      const int top = table.top;
      const EightScores eight_scores(scores, head * max_pages * kSketchPage + first);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const bool chosen = random_half(words, i) < table.threshold[level_of(top, eight_scores[i])];
        drawn |= static_cast<uint32_t>(chosen && first + i < keys) << i;
      }
    }
    mask[(head * max_pages + page) * kThreads + threadIdx.x] = static_cast<uint8_t>(drawn);
    const uint32_t count = warp_sum(static_cast<uint32_t>(__popc(drawn)));
    __syncthreads();  // the counts of the head before were read
    if (lane_id() == 0) warp_counts[warp_id()] = count;
    __syncthreads();
    if (threadIdx.x == 0) counts[head * max_pages + page] = warp_counts[0] + warp_counts[1] + warp_counts[2] + warp_counts[3];
  }
}
static_assert(kThreads == 4 * kWarp);

// Writes the drawn keys of one page, in order, behind those of the pages before it.
__global__ void __launch_bounds__(kThreads)
    collect_kernel(uint32_t* samples, const uint8_t* mask, const uint32_t* counts, const int16_t* scores, const SketchQuery* queries,
                   const SketchLevels* levels, SketchLengths lengths, int max_pages, int room) {
  __shared__ uint32_t scratch[kWarp];
  const int page = static_cast<int>(blockIdx.x), sequence = static_cast<int>(blockIdx.z);
  const int64_t head = static_cast<int64_t>(sequence) * gridDim.y + blockIdx.y;
  const int keys = lengths[sequence];
  if (page * kSketchPage >= keys || queries[head].usable == 0) return;
  counts += head * max_pages;
  uint32_t before = 0;
  for (int i = static_cast<int>(threadIdx.x); i < page; i += kThreads) before += counts[i];
  before = block_sum(before, scratch);

  const uint32_t own = mask[(head * max_pages + page) * kThreads + threadIdx.x];
  uint32_t in_page;
  __syncthreads();
  uint32_t place = before + block_prefix(static_cast<uint32_t>(__popc(own)), scratch, in_page);

  uint32_t* sample = samples + head * sketch_sample_words(room);
  uint32_t* ids = sample + kSketchIdsWord;
  const SketchLevels& table = levels[head];
  const int first = page * kSketchPage + static_cast<int>(threadIdx.x) * 8, top = table.top;
  for (uint32_t rest = own; rest != 0 && place < static_cast<uint32_t>(room); rest &= rest - 1, ++place) {
    const int key = first + __ffs(static_cast<int>(rest)) - 1;
    ids[place] = static_cast<uint32_t>(key);
    ids[room + place] = float_to_bits(table.log[level_of(top, scores[head * max_pages * kSketchPage + key])]);
  }
  if (page == (keys - 1) / kSketchPage && threadIdx.x == 0) sample[kSketchCountWord] = before + in_page;
}

bool valid(const SketchShape& shape, const SketchDraw& draw) {
  const int64_t heads = static_cast<int64_t>(shape.kv_heads) * shape.group;
  return sketch_fits(shape) && draw.sequences >= 0 && draw.sequences * heads <= 65535 && draw.max_keys >= 0 &&
         draw.max_keys <= INT32_MAX - kSketchPage && draw.room >= 0 && draw.floor_share > 0 && draw.budget.value > 0;
}

}  // namespace

size_t sketch_draw_workspace(const SketchShape& shape, int sequences, int max_keys) {
  return sketch_fits(shape) && sequences >= 0 && max_keys >= 0 ? SketchWorkspace(nullptr, shape, sequences, max_keys).bytes : 0;
}

cudaError_t sketch_sample(cudaStream_t stream, uint32_t* samples, const SketchWorkspace& space, const int32_t* keys, const uint32_t* steps,
                          const SketchShape& shape, const SketchDraw& draw) {
  const SketchLengths lengths{keys, draw.max_keys};
  const auto heads = static_cast<unsigned>(shape.kv_heads * shape.group), kv_heads = static_cast<unsigned>(shape.kv_heads);
  const auto sequences = static_cast<unsigned>(draw.sequences), pages = static_cast<unsigned>(space.max_pages);
  cudaError_t error = launch(count_kernel, dim3(pages, heads, sequences), dim3(kThreads), 0, stream, space.histograms, space.scores,
                             space.queries, lengths, space.max_pages);
  if (error != cudaSuccess) return error;
  error = launch(plan_kernel, dim3(heads, sequences), dim3(kSketchBins), 0, stream, samples, space.levels, space.histograms, space.queries,
                 lengths, sketch_weights(), static_cast<int>(heads), draw);
  if (error != cudaSuccess) return error;
  error = launch(mark_kernel, dim3(pages, kv_heads, sequences), dim3(kThreads), 0, stream, space.mask, space.counts, space.scores, space.queries,
                 space.levels, lengths, steps, shape.group, space.max_pages, draw.first_head, draw.seed);
  if (error != cudaSuccess) return error;
  return launch(collect_kernel, dim3(pages, heads, sequences), dim3(kThreads), 0, stream, samples, space.mask, space.counts, space.scores,
                space.queries, space.levels, lengths, space.max_pages, draw.room);
}

cudaError_t sketch_draw(cudaStream_t stream, uint32_t* samples, void* workspace, const SketchView& view, const float* q,
                        const uint32_t* flips, const int32_t* keys, const uint32_t* steps, const SketchShape& shape,
                        const SketchDraw& draw) {
  if (!valid(shape, draw) || workspace == nullptr) return cudaErrorInvalidValue;
  const SketchWorkspace space(workspace, shape, draw.sequences, draw.max_keys);
  const cudaError_t error = sketch_scan(stream, space, view, q, flips, keys, shape, draw);
  return error != cudaSuccess ? error : sketch_sample(stream, samples, space, keys, steps, shape, draw);
}

}  // namespace magicpig
