#include "selectors.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <numeric>

#include "magicpig/thread_pool.h"

namespace magicpig::kv {
namespace {

// Working memory of the calling thread, valid until its next call.
template <typename T, int kUse>
std::vector<T>& ThreadVector() {
  thread_local std::vector<T> vector;
  return vector;
}

// A well-mixed 64-bit number for each input (splitmix64): random draws that depend on nothing but their number.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

double Uniform(uint64_t x) { return static_cast<double>(Mix(x) >> 11) * 0x1p-53; }

// The `keep` largest of values[0 .. count), as ascending indices. Of equal values the lower index wins.
void Largest(const float* values, uint32_t count, uint32_t keep, std::vector<uint32_t>& ids) {
  ids.resize(count);
  std::iota(ids.begin(), ids.end(), 0u);
  if (keep < count) {
    std::nth_element(ids.begin(), ids.begin() + keep, ids.end(), [&](uint32_t a, uint32_t b) {
      return values[a] > values[b] || (values[a] == values[b] && a < b);
    });
    ids.resize(keep);
    std::sort(ids.begin(), ids.end());
  }
}

// e^{s - max}, in place. Returns the sum.
double Exponentials(float* scores, uint32_t count) {
  const float max = *std::max_element(scores, scores + count);
  double sum = 0.0;
  for (uint32_t i = 0; i < count; ++i) sum += scores[i] = std::exp(scores[i] - max);
  return sum;
}

}  // namespace

int Selector::Call(void* context, const magicpig_selector_args* args, magicpig_selection* out) {
  try {
    auto& ids = ThreadVector<std::vector<uint32_t>, 0>();
    auto& log_probability = ThreadVector<std::vector<float>, 0>();
    if (ids.size() < args->queries) {
      ids.resize(args->queries);
      log_probability.resize(args->queries);
    }
    for (uint32_t i = 0; i < args->queries; ++i) {
      ids[i].clear();
      log_probability[i].clear();
      if (!static_cast<Selector*>(context)->Select(*args, i, ids[i], log_probability[i])) return 1;
      const bool corrected = !log_probability[i].empty();
      out[i] = {ids[i].data(),
                static_cast<uint32_t>(ids[i].size()),
                corrected ? MAGICPIG_CORRECTION_LOG_PROBABILITY : MAGICPIG_CORRECTION_NONE,
                corrected ? log_probability[i].data() : nullptr,
                nullptr,
                0,
                nullptr,
                nullptr};
    }
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

// Given ---------------------------------------------------------------------------------------------------------------

GivenSelector::GivenSelector(const Shape& shape)
    : Selector(shape.dim, shape.layers * shape.kv_heads),
      kv_heads_(shape.kv_heads),
      query_heads_(shape.query_heads),
      choices_(size_t{shape.layers} * shape.query_heads) {}

void GivenSelector::Set(uint32_t index, std::vector<uint32_t> ids, std::vector<float> log_probability) {
  choices_[index] = {true, std::move(ids), std::move(log_probability)};
}

void GivenSelector::Clear() { std::fill(choices_.begin(), choices_.end(), Choice{}); }

bool GivenSelector::Select(const magicpig_selector_args& args, uint32_t query, std::vector<uint32_t>& ids,
                           std::vector<float>& log_probability) {
  const Choice& choice = choices_[size_t{args.head / kv_heads_} * query_heads_ + args.query_head + query];
  if (!choice.set) return false;
  ids = choice.ids;
  log_probability = choice.log_probability;
  return true;
}

// Window --------------------------------------------------------------------------------------------------------------

WindowSelector::WindowSelector(const Shape& shape, uint32_t sink, uint32_t window)
    : Selector(shape.dim, shape.layers * shape.kv_heads), sink_(sink), window_(window) {}

bool WindowSelector::Select(const magicpig_selector_args& args, uint32_t, std::vector<uint32_t>& ids,
                            std::vector<float>&) {
  const uint32_t sink = std::min(sink_, args.indexed);
  const uint32_t window = std::max(sink, args.indexed - std::min(window_, args.indexed));
  for (uint32_t i = 0; i < sink; ++i) ids.push_back(i);
  for (uint32_t i = window; i < args.indexed; ++i) ids.push_back(i);
  return true;
}

// Of a sequence -------------------------------------------------------------------------------------------------------

SequenceSelector::SequenceSelector(std::shared_ptr<Sequence> sequence, uint32_t begin)
    : Selector(sequence->store()->shape().dim,
               sequence->store()->shape().layers * sequence->store()->shape().kv_heads),
      sequence_(std::move(sequence)),
      begin_(begin),
      shortest_(sequence_->WatchLength()) {}

void SequenceSelector::Dispose() {
  disposed_ = true;
  FreeSummary();
}

std::vector<float>& SequenceSelector::Scores(uint32_t head, const float* query, uint32_t count) const {
  auto& scores = ThreadVector<float, 1>();
  auto& prepared = ThreadVector<uint8_t, 2>();
  const Kernels& kernels = sequence_->store()->kernels();
  const uint32_t dim = shape().dim;
  scores.resize(count + kTileKeys);
  prepared.resize(kernels.query_bytes(dim));
  kernels.prepare_query(query, 1.0f / std::sqrt(static_cast<float>(dim)), dim, prepared.data());
  kernels.score_span(Rows(head), begin_, begin_ + count, prepared.data(), scores.data());
  return scores;
}

TopKSelector::TopKSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys)
    : SequenceSelector(std::move(sequence), begin), keys_(keys) {}

bool TopKSelector::Select(const magicpig_selector_args& args, uint32_t query, std::vector<uint32_t>& ids,
                          std::vector<float>&) {
  if (!Has(args.indexed)) return false;
  Largest(Scores(args.head, args.query + query * args.head_dim, args.indexed).data(), args.indexed, keys_, ids);
  return true;
}

OracleSelector::OracleSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys, uint64_t seed)
    : SequenceSelector(std::move(sequence), begin), keys_(keys), seed_(seed) {}

bool OracleSelector::Select(const magicpig_selector_args& args, uint32_t query, std::vector<uint32_t>& ids,
                            std::vector<float>& log_probability) {
  if (!Has(args.indexed)) return false;
  float* weights = Scores(args.head, args.query + query * args.head_dim, args.indexed).data();
  const double sum = Exponentials(weights, args.indexed);
  // Sorted draws meet the running sum once each. One stream for each (layer, query head, position).
  auto& draws = ThreadVector<double, 3>();
  draws.resize(keys_);
  const uint64_t stream =
      Mix(Mix(Mix(seed_ ^ args.head) ^ (args.query_head + query)) ^ args.step);
  for (uint32_t i = 0; i < keys_; ++i) draws[i] = Uniform(stream + i) * sum;
  std::sort(draws.begin(), draws.end());
  double reached = 0.0;
  for (uint32_t i = 0, draw = 0; i < args.indexed && draw < keys_; ++i) {
    reached += weights[i];
    const uint32_t first = draw;
    while (draw < keys_ && (draws[draw] < reached || i + 1 == args.indexed)) ++draw;
    if (draw == first) continue;
    // A key drawn m times of B stands for m / B of the softmax: e^s / u = Z m / B, so that u = w B / m.
    ids.push_back(i);
    log_probability.push_back(
        static_cast<float>(std::log(std::max<double>(weights[i], 1e-38) / sum * keys_ / (draw - first))));
  }
  return true;
}

// With an index -------------------------------------------------------------------------------------------------------

bool IndexedSelector::Index(uint32_t end) {
  if (indexed() < indexed_) {
    FreeSummary();
    indexed_ = 0;
  }
  Renew();
  if (end < begin_ + indexed_ || !Has(end - begin_)) return false;
  const uint32_t heads = shape().layers * shape().kv_heads, to = end - begin_;
  std::atomic<bool> failed{false};
  ParallelFor(sequence_->store()->pool(), heads, [&](uint32_t head, uint32_t) {
    try {
      Extend(head, indexed_, to);
    } catch (const std::bad_alloc&) {
      failed.store(true);
    }
  });
  if (failed.load()) throw std::bad_alloc();
  indexed_ = to;
  return true;
}

QuestSelector::QuestSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys)
    : IndexedSelector(std::move(sequence), begin), keys_(keys), bounds_(shape().layers * shape().kv_heads) {}

void QuestSelector::Extend(uint32_t head, uint32_t from, uint32_t to) {
  const uint32_t dim = shape().dim;
  const HeadRows rows = Rows(head);
  std::vector<float>& bounds = bounds_[head];
  std::vector<float> key(dim);
  bounds.resize(size_t{(to + kBlock - 1) / kBlock} * 2 * dim);
  for (uint32_t token = from; token < to; ++token) {
    sequence_->store()->kernels().load_row(rows.Key(begin_ + token), dim, key.data());
    float* low = &bounds[size_t{token / kBlock} * 2 * dim];
    float* high = low + dim;
    for (uint32_t i = 0; i < dim; ++i) {
      low[i] = token % kBlock == 0 ? key[i] : std::min(low[i], key[i]);
      high[i] = token % kBlock == 0 ? key[i] : std::max(high[i], key[i]);
    }
  }
}

bool QuestSelector::Select(const magicpig_selector_args& args, uint32_t query, std::vector<uint32_t>& ids,
                           std::vector<float>&) {
  if (!Has(args.indexed) || args.indexed > indexed()) return false;
  const uint32_t dim = args.head_dim, blocks = (args.indexed + kBlock - 1) / kBlock;
  const float* q = args.query + query * dim;
  auto& scores = ThreadVector<float, 1>();
  scores.resize(blocks);
  for (uint32_t block = 0; block < blocks; ++block) {
    const float* low = &bounds_[args.head][size_t{block} * 2 * dim];
    const float* high = low + dim;
    float score = 0.0f;
    for (uint32_t i = 0; i < dim; ++i) score += std::max(q[i] * low[i], q[i] * high[i]);
    scores[block] = score;
  }
  auto& chosen = ThreadVector<uint32_t, 2>();
  Largest(scores.data(), blocks, (keys_ + kBlock - 1) / kBlock, chosen);
  for (const uint32_t block : chosen) {
    for (uint32_t i = block * kBlock; i < std::min(args.indexed, (block + 1) * kBlock); ++i) ids.push_back(i);
  }
  return true;
}

IvfSelector::IvfSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys, uint32_t cells,
                         uint64_t seed)
    : IndexedSelector(std::move(sequence), begin),
      keys_(keys),
      cells_(cells),
      seed_(seed),
      heads_(shape().layers * shape().kv_heads) {}

uint32_t IvfSelector::Nearest(const Cells& cells, const float* key) const {
  const uint32_t dim = shape().dim, count = static_cast<uint32_t>(cells.tokens.size());
  uint32_t nearest = 0;
  float least = INFINITY;
  for (uint32_t cell = 0; cell < count; ++cell) {
    const float* centre = &cells.centres[size_t{cell} * dim];
    float distance = 0.0f;
    for (uint32_t i = 0; i < dim; ++i) distance += (key[i] - centre[i]) * (key[i] - centre[i]);
    if (distance < least) {
      least = distance;
      nearest = cell;
    }
  }
  return nearest;
}

void IvfSelector::Train(Cells& cells, const std::vector<float>& keys, uint32_t count, uint64_t seed) const {
  constexpr int kRounds = 8;  // Lloyd's algorithm gains little after the first few
  const uint32_t dim = shape().dim, used = std::min(cells_, count);
  cells.tokens.assign(used, {});
  cells.centres.resize(size_t{used} * dim);
  // Centres start at distinct random keys: the first of a partial shuffle.
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  for (uint32_t cell = 0; cell < used; ++cell) {
    std::swap(order[cell], order[cell + Mix(seed + cell) % (count - cell)]);
    std::copy_n(&keys[size_t{order[cell]} * dim], dim, &cells.centres[size_t{cell} * dim]);
  }
  std::vector<double> sums(size_t{used} * dim);
  std::vector<uint32_t> members(used);
  for (int round = 0; round < kRounds; ++round) {
    std::fill(sums.begin(), sums.end(), 0.0);
    std::fill(members.begin(), members.end(), 0u);
    for (uint32_t token = 0; token < count; ++token) {
      const float* key = &keys[size_t{token} * dim];
      const uint32_t cell = Nearest(cells, key);
      ++members[cell];
      for (uint32_t i = 0; i < dim; ++i) sums[size_t{cell} * dim + i] += key[i];
    }
    for (uint32_t cell = 0; cell < used; ++cell) {
      if (members[cell] == 0) continue;
      for (uint32_t i = 0; i < dim; ++i) {
        cells.centres[size_t{cell} * dim + i] = static_cast<float>(sums[size_t{cell} * dim + i] / members[cell]);
      }
    }
  }
}

void IvfSelector::Extend(uint32_t head, uint32_t from, uint32_t to) {
  if (from == to) return;
  const uint32_t dim = shape().dim;
  const HeadRows rows = Rows(head);
  std::vector<float> keys(size_t{to - from} * dim);
  for (uint32_t token = from; token < to; ++token) {
    sequence_->store()->kernels().load_row(rows.Key(begin_ + token), dim, &keys[size_t{token - from} * dim]);
  }
  Cells& cells = heads_[head];
  if (cells.tokens.empty()) Train(cells, keys, to - from, Mix(seed_ ^ head));
  for (uint32_t token = from; token < to; ++token) {
    cells.tokens[Nearest(cells, &keys[size_t{token - from} * dim])].push_back(token);
  }
}

bool IvfSelector::Select(const magicpig_selector_args& args, uint32_t query, std::vector<uint32_t>& ids,
                         std::vector<float>&) {
  if (!Has(args.indexed) || args.indexed > indexed()) return false;
  const Cells& cells = heads_[args.head];
  const uint32_t dim = args.head_dim, count = static_cast<uint32_t>(cells.tokens.size());
  const float* q = args.query + query * dim;
  auto& scores = ThreadVector<float, 1>();
  auto& order = ThreadVector<uint32_t, 2>();
  scores.resize(count);
  order.resize(count);
  std::iota(order.begin(), order.end(), 0u);
  for (uint32_t cell = 0; cell < count; ++cell) {
    scores[cell] = std::inner_product(q, q + dim, &cells.centres[size_t{cell} * dim], 0.0f);
  }
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return scores[a] > scores[b] || (scores[a] == scores[b] && a < b); });
  for (uint32_t i = 0; i < count && ids.size() < keys_; ++i) {
    for (const uint32_t token : cells.tokens[order[i]]) {
      if (token < args.indexed) ids.push_back(token);
    }
  }
  std::sort(ids.begin(), ids.end());
  return true;
}

// H2O -----------------------------------------------------------------------------------------------------------------

H2oSelector::H2oSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys)
    : SequenceSelector(std::move(sequence), begin),
      keys_(keys),
      shares_(size_t{shape().layers} * shape().query_heads) {}

bool H2oSelector::Observe(uint32_t layer, ConstRows queries, uint32_t rows, uint32_t first) {
  if (first < begin_ || !Has(first + rows - begin_)) return false;
  const uint32_t dim = shape().dim, count = first + rows - begin_;
  // Tokens that the sequence has forgotten since lose their shares.
  const uint32_t untouched = Untouched();
  for (std::vector<float>& shares : shares_) {
    if (shares.size() > untouched) shares.resize(untouched);
  }
  Renew();
  std::atomic<bool> failed{false};
  ParallelFor(sequence_->store()->pool(), shape().query_heads, [&](uint32_t query_head, uint32_t) {
    try {
      std::vector<float>& shares = shares_[size_t{layer} * shape().query_heads + query_head];
      if (shares.size() < count) shares.resize(count);
      const uint32_t head = layer * shape().kv_heads + query_head / shape().group();
      for (uint32_t row = 0; row < rows; ++row) {
        const uint32_t seen = first + row + 1 - begin_;
        float* weights = Scores(head, queries.data + row * queries.stride + query_head * dim, seen).data();
        const double sum = Exponentials(weights, seen);
        for (uint32_t i = 0; i < seen; ++i) shares[i] += static_cast<float>(weights[i] / sum);
      }
    } catch (const std::bad_alloc&) {
      failed.store(true);
    }
  });
  if (failed.load()) throw std::bad_alloc();
  return true;
}

bool H2oSelector::Select(const magicpig_selector_args& args, uint32_t query, std::vector<uint32_t>& ids,
                         std::vector<float>&) {
  if (!Has(args.indexed)) return false;
  const uint32_t layer = args.head / shape().kv_heads;
  const std::vector<float>& shares = shares_[size_t{layer} * shape().query_heads + args.query_head + query];
  // Tokens that no observed query could see have no share and no claim.
  const uint32_t shared = std::min(static_cast<uint32_t>(shares.size()), Untouched());
  Largest(shares.data(), std::min(args.indexed, shared), keys_, ids);
  return true;
}

}  // namespace magicpig::kv
