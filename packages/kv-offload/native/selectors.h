// Selectors shipped beside LSH, behind the same ABI: the baselines of the paper's figures, and selections made elsewhere.
#ifndef MAGICPIG_KV_SELECTORS_H_
#define MAGICPIG_KV_SELECTORS_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "magicpig/selector.h"
#include "store.h"

namespace magicpig::kv {

// Base of the selectors: reference counting and the C ABI.
class Selector {
 public:
  Selector(uint32_t head_dim, uint32_t heads) : abi_{MAGICPIG_SELECTOR_ABI, head_dim, heads, this, &Call, &Retain, &Drop} {}
  virtual ~Selector() = default;
  Selector(const Selector&) = delete;
  Selector& operator=(const Selector&) = delete;

  const magicpig_selector* abi() const { return &abi_; }
  // The Selector behind a handle of this library; nullptr for any other.
  static Selector* From(const magicpig_selector& abi) {
    return abi.select == &Call ? static_cast<Selector*>(abi.context) : nullptr;
  }

 protected:
  // Fills `out` for query `query` of the call. False when it cannot. Throws std::bad_alloc. ids and log_probability are
  // the calling thread's own vectors, one pair for each query.
  virtual bool Select(const magicpig_selector_args& args, uint32_t query, std::vector<uint32_t>& ids,
                      std::vector<float>& log_probability) = 0;

 private:
  static int Call(void* context, const magicpig_selector_args* args, magicpig_selection* out);
  static void Retain(void* context) { static_cast<Selector*>(context)->references_.fetch_add(1); }
  static void Drop(void* context) {
    auto* self = static_cast<Selector*>(context);
    if (self->references_.fetch_sub(1) == 1) delete self;
  }

  const magicpig_selector abi_;
  std::atomic<int64_t> references_{1};
};

// Ids and log-probabilities handed in from outside (a device, a researcher), one set for each query head.
class GivenSelector : public Selector {
 public:
  explicit GivenSelector(const Shape& shape);
  // index = layer * query_heads + query head; log_probability is empty for a truncation.
  void Set(uint32_t index, std::vector<uint32_t> ids, std::vector<float> log_probability);
  void Clear();

 protected:
  bool Select(const magicpig_selector_args&, uint32_t, std::vector<uint32_t>&, std::vector<float>&) override;

 private:
  struct Choice {
    bool set = false;
    std::vector<uint32_t> ids;
    std::vector<float> log_probability;
  };
  const uint32_t kv_heads_, query_heads_;
  std::vector<Choice> choices_;  // (layers, query_heads)
};

// StreamingLLM (arXiv 2309.17453): the first `sink` and the last `window` of the tokens.
class WindowSelector : public Selector {
 public:
  WindowSelector(const Shape& shape, uint32_t sink, uint32_t window);

 protected:
  bool Select(const magicpig_selector_args&, uint32_t, std::vector<uint32_t>&, std::vector<float>&) override;

 private:
  const uint32_t sink_, window_;
};

// Base of the selectors that look at a sequence's keys from token `begin` on.
class SequenceSelector : public Selector {
 public:
  SequenceSelector(std::shared_ptr<Sequence> sequence, uint32_t begin);
  // Frees what it keeps of the keys; it selects nothing afterwards.
  void Dispose();
  bool disposed() const { return disposed_; }
  // Whether it and its sequence are still there.
  bool alive() const { return !disposed_ && !sequence_->disposed(); }

 protected:
  // Frees what is kept of the keys.
  virtual void FreeSummary() {}
  // Tokens from `begin` on that no truncation has reached since Renew().
  uint32_t Untouched() const { return *shortest_ > begin_ ? *shortest_ - begin_ : 0; }
  void Renew() { *shortest_ = UINT32_MAX; }
  const Shape& shape() const { return sequence_->store()->shape(); }
  // Whether the sequence still has the tokens asked for.
  bool Has(uint32_t indexed) const { return alive() && begin_ + indexed <= sequence_->length(); }
  // q . k / sqrt(d) of the first `count` tokens; valid until the next call on this thread.
  std::vector<float>& Scores(uint32_t head, const float* query, uint32_t count) const;
  HeadRows Rows(uint32_t head) const { return sequence_->Rows(head / shape().kv_heads, head % shape().kv_heads); }

  const std::shared_ptr<Sequence> sequence_;
  const uint32_t begin_;

 private:
  const std::shared_ptr<uint32_t> shortest_;
  bool disposed_ = false;
};

// The `keys` tokens of largest score: exact TopK attention.
class TopKSelector : public SequenceSelector {
 public:
  TopKSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys);

 protected:
  bool Select(const magicpig_selector_args&, uint32_t, std::vector<uint32_t>&, std::vector<float>&) override;

 private:
  const uint32_t keys_;
};

// `keys` independent draws from the true softmax: the oracle sampling of arXiv 2410.16179, section 3.1.
class OracleSelector : public SequenceSelector {
 public:
  OracleSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys, uint64_t seed);

 protected:
  bool Select(const magicpig_selector_args&, uint32_t, std::vector<uint32_t>&, std::vector<float>&) override;

 private:
  const uint32_t keys_;
  const uint64_t seed_;
};

// Base of the selectors that keep a summary of the keys, brought up to date by Index().
class IndexedSelector : public SequenceSelector {
 public:
  using SequenceSelector::SequenceSelector;
  // Covers the sequence's tokens up to `end`, anew when it was truncated below those covered before. False when it has not so
  // many. Throws std::bad_alloc.
  bool Index(uint32_t end);
  uint32_t indexed() const { return indexed_ <= Untouched() ? indexed_ : 0; }

 protected:
  // Takes the tokens [from, to), relative to begin, of one head into the summary.
  virtual void Extend(uint32_t head, uint32_t from, uint32_t to) = 0;

 private:
  uint32_t indexed_ = 0;
};

// Quest (arXiv 2406.10774): blocks of 16 tokens with the largest upper bound of their scores.
class QuestSelector : public IndexedSelector {
 public:
  QuestSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys);

 protected:
  bool Select(const magicpig_selector_args&, uint32_t, std::vector<uint32_t>&, std::vector<float>&) override;
  void Extend(uint32_t head, uint32_t from, uint32_t to) override;
  void FreeSummary() override {
    for (std::vector<float>& bounds : bounds_) std::vector<float>().swap(bounds);
  }

 private:
  static constexpr uint32_t kBlock = 16;
  const uint32_t keys_;
  std::vector<std::vector<float>> bounds_;  // (heads): (blocks, 2, dim), minima and maxima of the elements
};

// Cells of a k-means clustering of the keys, nearest to the query first, as a vector index (IVF) would read them.
class IvfSelector : public IndexedSelector {
 public:
  IvfSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys, uint32_t cells, uint64_t seed);

 protected:
  bool Select(const magicpig_selector_args&, uint32_t, std::vector<uint32_t>&, std::vector<float>&) override;
  void Extend(uint32_t head, uint32_t from, uint32_t to) override;
  void FreeSummary() override {
    for (Cells& cells : heads_) cells = {};
  }

 private:
  struct Cells {
    std::vector<float> centres;                 // (cells, dim)
    std::vector<std::vector<uint32_t>> tokens;  // (cells), ascending
  };
  void Train(Cells& cells, const std::vector<float>& keys, uint32_t count, uint64_t seed) const;
  uint32_t Nearest(const Cells& cells, const float* key) const;

  const uint32_t keys_, cells_;
  const uint64_t seed_;
  std::vector<Cells> heads_;
};

// H2O (arXiv 2306.14048): the tokens that took the largest share of attention so far.
class H2oSelector : public SequenceSelector {
 public:
  H2oSelector(std::shared_ptr<Sequence> sequence, uint32_t begin, uint32_t keys);
  // Adds the attention weights of queries (rows, query_heads * dim) at positions first, first + 1, ... False when the
  // sequence has not so many tokens. Throws std::bad_alloc.
  bool Observe(uint32_t layer, ConstRows queries, uint32_t rows, uint32_t first);

 protected:
  bool Select(const magicpig_selector_args&, uint32_t, std::vector<uint32_t>&, std::vector<float>&) override;
  void FreeSummary() override {
    for (std::vector<float>& shares : shares_) std::vector<float>().swap(shares);
  }

 private:
  const uint32_t keys_;
  std::vector<std::vector<float>> shares_;  // (layers, query_heads): (tokens from begin on)
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SELECTORS_H_
