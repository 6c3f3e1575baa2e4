#include "store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "magicpig/thread_pool.h"

namespace magicpig::kv {
namespace {

// Elements of keys below which one thread writes them faster than a pool would wake.
constexpr size_t kParallelAppend = 1 << 16;

Error Disposed(const char* what) { return {ErrorCode::kDisposed, std::string(what) + " was disposed of."}; }

}  // namespace

Store::Store(const Shape& shape, uint64_t max_bytes, const magicpig_pool& pool)
    : shape_(shape),
      max_bytes_(max_bytes),
      pool_(pool),
      kernels_(KernelsFor(ActiveIsa(), shape.dtype)),
      pages_(shape.page_bytes()) {
  workspace_.threads.resize(pool.threads);
}

Store::~Store() { pool_.release(pool_.context); }

std::shared_ptr<Sequence> Store::Open() { return std::make_shared<Sequence>(shared_from_this()); }

void Store::Dispose() {
  disposed_ = true;
  pages_.Clear();
}

void Store::CopyRows(const Page& from, Page& to, uint32_t tokens) const {
  const size_t block = shape_.block_bytes(), used = tokens * shape_.token_bytes();
  for (size_t offset = 0; offset < shape_.page_bytes(); offset += block) {
    std::memcpy(to.data + offset, from.data + offset, used);
  }
}

Status Store::MakeStep(std::vector<Request> requests, std::unique_ptr<Step>& step) {
  if (disposed_) return Disposed("The store");
  const uint32_t page_tokens = shape_.page_tokens;

  // What each entry needs. A last page that others hold too and that the step would write to is replaced by a copy; of
  // several sequences that share it in one step, the last to go keeps it when nobody else holds it.
  struct Need {
    bool copy;
    size_t pages;
  };
  std::vector<Need> needs;
  std::unordered_map<Page*, uint32_t> left;
  std::unordered_set<const Sequence*> seen;
  uint64_t total = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const Sequence& sequence = *requests[i].sequence;
    const std::string name = "entries[" + std::to_string(i) + "].sequence";
    if (sequence.store_.get() != this) {
      return Error{ErrorCode::kInvalidArgument, name + " belongs to another store; make it with this store's open()."};
    }
    if (sequence.disposed()) return Disposed(name.c_str());
    if (!seen.insert(&sequence).second) {
      return Error{ErrorCode::kInvalidArgument, name + " appears twice in one step; give it one entry with more tokens."};
    }
    const uint64_t length = uint64_t{sequence.length_} + requests[i].tokens;
    if (length > INT32_MAX) {
      return Error{ErrorCode::kInvalidArgument, name + " would have " + std::to_string(length) +
                                                    " tokens; at most 2147483647 are supported."};
    }
    bool copy = false;
    if (sequence.length_ % page_tokens != 0) {
      Page* last = sequence.pages_.back();
      if (last->references - left[last] > 1) {
        copy = true;
        ++left[last];
      }
    }
    const size_t pages = (length + page_tokens - 1) / page_tokens - sequence.pages_.size();
    needs.push_back({copy, pages});
    total += pages + copy;
  }

  const uint64_t requested = total * pages_.page_bytes();
  const uint64_t available = Available();
  if (requested > available) return DoesNotFit("The step", requested);

  // Everything that can fail comes before the first change.
  std::vector<Page*> fresh;
  const auto give_back = [&] {
    for (Page* page : fresh) pages_.Release(page);
  };
  std::vector<Step::Entry> entries;
  try {
    fresh.reserve(total);
    while (fresh.size() < total) {
      Page* page = pages_.Take();
      if (page == nullptr) {
        give_back();
        return Error{ErrorCode::kOutOfMemory,
                     "The system gave no memory for a step that needs " + std::to_string(requested) +
                         " bytes of pages; dispose of sequences or set maxBytes to what the machine has.",
                     requested, available};
      }
      fresh.push_back(page);
    }
    entries.reserve(requests.size());
    uint32_t row = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      Sequence& sequence = *requests[i].sequence;
      sequence.pages_.reserve(sequence.pages_.size() + needs[i].pages);
      sequence.bases_.reserve(sequence.bases_.size() + needs[i].pages);
      entries.push_back({requests[i].sequence, sequence.version_ + 1, sequence.length_, requests[i].tokens, row});
      row += requests[i].tokens;
    }
    step = std::make_unique<Step>(shared_from_this(), std::move(entries));
  } catch (const std::bad_alloc&) {
    give_back();
    throw;
  }

  auto next = fresh.begin();
  for (size_t i = 0; i < requests.size(); ++i) {
    Sequence& sequence = *requests[i].sequence;
    if (needs[i].copy) {
      Page*& last = sequence.pages_.back();
      CopyRows(*last, **next, sequence.length_ % page_tokens);
      pages_.Release(last);
      last = *next++;
      sequence.bases_.back() = last->data;
    }
    for (size_t j = 0; j < needs[i].pages; ++j) {
      sequence.pages_.push_back(*next);
      sequence.bases_.push_back((*next)->data);
      ++next;
    }
    sequence.length_ += requests[i].tokens;
    ++sequence.version_;
  }
  return std::nullopt;
}

uint64_t Store::Available() const {
  return max_bytes_ == UINT64_MAX ? UINT64_MAX : max_bytes_ - std::min(max_bytes_, pages_.bytes());
}

Error Store::DoesNotFit(const char* what, uint64_t requested) const {
  return {ErrorCode::kOutOfMemory,
          std::string(what) + " needs " + std::to_string(requested) + " bytes of pages and " +
              std::to_string(Available()) + " of maxBytes = " + std::to_string(max_bytes_) +
              " are left; dispose of sequences or raise maxBytes.",
          requested, Available()};
}

Status Store::Adopt(std::shared_ptr<FileMapping> mapping, size_t offset, uint32_t pages, uint32_t length,
                    std::shared_ptr<Sequence>& sequence) {
  if (disposed_) return Disposed("The store");
  const uint64_t requested = uint64_t{pages} * pages_.page_bytes();
  if (requested > Available()) return DoesNotFit("The snapshot", requested);
  auto adopted = Open();
  adopted->bases_.reserve(pages);
  adopted->pages_ = pages_.Adopt(std::move(mapping), offset, pages);
  for (const Page* page : adopted->pages_) adopted->bases_.push_back(page->data);
  adopted->length_ = length;
  sequence = std::move(adopted);
  return std::nullopt;
}

std::shared_ptr<Sequence> Sequence::Fork() {
  auto fork = std::make_shared<Sequence>(store_);
  fork->pages_ = pages_;
  fork->bases_ = bases_;
  fork->length_ = length_;
  for (Page* page : pages_) store_->pages().Retain(page);
  ++version_;
  return fork;
}

void Sequence::Truncate(uint32_t length) {
  const uint32_t page_tokens = store_->shape().page_tokens;
  const size_t keep = (size_t{length} + page_tokens - 1) / page_tokens;
  while (pages_.size() > keep) {
    store_->pages().Release(pages_.back());
    pages_.pop_back();
    bases_.pop_back();
  }
  length_ = length;
  ++version_;
  for (const auto& each : watched_lengths_) {
    if (const auto watched = each.lock()) *watched = std::min(*watched, length);
  }
}

std::shared_ptr<uint32_t> Sequence::WatchLength() {
  std::erase_if(watched_lengths_, [](const auto& each) { return each.expired(); });
  auto watched = std::make_shared<uint32_t>(UINT32_MAX);
  watched_lengths_.push_back(watched);
  return watched;
}

void Sequence::Dispose() {
  if (disposed()) return;
  Truncate(0);
  disposed_ = true;
}

HeadRows Sequence::Rows(uint32_t layer, uint32_t head) const {
  const Shape& shape = store_->shape();
  return {bases_.data(),
          (size_t{layer} * shape.kv_heads + head) * shape.block_bytes(),
          static_cast<uint32_t>(std::countr_zero(shape.page_tokens)),
          shape.row_bytes(),
          shape.dim};
}

Step::Step(std::shared_ptr<Store> store, std::vector<Entry> entries)
    : store_(std::move(store)), entries_(std::move(entries)), appended_(store_->shape().layers) {
  for (const Entry& entry : entries_) rows_ += entry.tokens;
}

Status Step::Check() const {
  if (store_->disposed()) return Disposed("The step's store");
  for (const Entry& entry : entries_) {
    if (entry.sequence->disposed()) return Disposed("A sequence of the step");
    if (entry.sequence->version() != entry.version) {
      return Error{ErrorCode::kStaleStep,
                   "A sequence of the step was stepped again, truncated or forked since; make a new step."};
    }
  }
  return std::nullopt;
}

Status Step::Append(uint32_t layer, ConstRows keys, ConstRows values) {
  if (Status status = Check()) return status;
  const Shape& shape = store_->shape();
  const uint32_t dim = shape.dim;
  const auto store_row = store_->kernels().store_row;
  for (const Entry& entry : entries_) {
    const auto write = [&](uint32_t token, uint32_t) {
      const float* key = keys.data + (entry.row + token) * keys.stride;
      const float* value = values.data + (entry.row + token) * values.stride;
      for (uint32_t head = 0; head < shape.kv_heads; ++head) {
        const HeadRows rows = entry.sequence->Rows(layer, head);
        // The step owns the pages that it writes to: MakeStep made them unshared.
        store_row(key + head * dim, dim, const_cast<uint8_t*>(rows.Key(entry.start + token)));
        store_row(value + head * dim, dim, const_cast<uint8_t*>(rows.Value(entry.start + token)));
      }
    };
    if (size_t{entry.tokens} * shape.kv_heads * dim < kParallelAppend) {
      for (uint32_t token = 0; token < entry.tokens; ++token) write(token, 0);
    } else {
      constexpr uint32_t kTokens = 16;
      ParallelFor(store_->pool(), (entry.tokens + kTokens - 1) / kTokens, [&](uint32_t task, uint32_t thread) {
        const uint32_t end = std::min(entry.tokens, (task + 1) * kTokens);
        for (uint32_t token = task * kTokens; token < end; ++token) write(token, thread);
      });
    }
  }
  appended_[layer] = true;
  return std::nullopt;
}

Status Step::Rollback() {
  if (Status status = Check()) return status;
  for (const Entry& entry : entries_) entry.sequence->Truncate(entry.start);
  return std::nullopt;
}

}  // namespace magicpig::kv
