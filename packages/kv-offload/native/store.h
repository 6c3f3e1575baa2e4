// The KV store: sequences of pages with copy on write, and steps that append to them.
#ifndef MAGICPIG_KV_STORE_H_
#define MAGICPIG_KV_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"
#include "magicpig/pool.h"
#include "pages.h"
#include "workspace.h"

namespace magicpig::kv {

enum class ErrorCode { kInvalidArgument, kOutOfMemory, kDisposed, kStaleStep, kSelector, kFile, kCorruptFile, kUnsupported };

struct Error {
  ErrorCode code;
  std::string message;
  uint64_t requested_bytes = 0;  // kOutOfMemory
  uint64_t available_bytes = 0;  // kOutOfMemory; UINT64_MAX when there is no limit
};

// Nothing when all went well.
using Status = std::optional<Error>;

struct Shape {
  uint32_t layers;
  uint32_t kv_heads;
  uint32_t query_heads;
  uint32_t dim;
  uint32_t page_tokens;  // a power of two
  Dtype dtype;

  uint32_t group() const { return query_heads / kv_heads; }
  uint32_t row_bytes() const { return RowBytes(dtype, dim); }
  size_t token_bytes() const { return size_t{2} * row_bytes(); }
  // A page holds, for each layer and KV head, a block of rows (page_tokens, 2): the key and the value of each token.
  size_t block_bytes() const { return page_tokens * token_bytes(); }
  size_t page_bytes() const { return block_bytes() * kv_heads * layers; }
};

class Sequence;
class Step;

// Rows of float32 in a caller's buffer.
struct ConstRows {
  const float* data;
  size_t stride;
};
struct MutableRows {
  float* data;
  size_t stride;
};

// One thread calls into a store; the pool's threads only run kernels inside such a call.
class Store : public std::enable_shared_from_this<Store> {
 public:
  // Takes over one reference of the pool. max_bytes is UINT64_MAX when there is no limit.
  Store(const Shape& shape, uint64_t max_bytes, const magicpig_pool& pool);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  std::shared_ptr<Sequence> Open();
  // Frees all pages; sequences and steps are unusable afterwards.
  void Dispose();

  struct Request {
    std::shared_ptr<Sequence> sequence;
    uint32_t tokens;
  };
  // Reserves pages and lengthens the sequences, or fails and changes nothing. Throws std::bad_alloc likewise.
  Status MakeStep(std::vector<Request> requests, std::unique_ptr<Step>& step);

  // A sequence of `length` tokens whose pages lie in a mapped file from `offset` bytes on.
  Status Adopt(std::shared_ptr<FileMapping> mapping, size_t offset, uint32_t pages, uint32_t length,
               std::shared_ptr<Sequence>& sequence);

  const Shape& shape() const { return shape_; }
  const Kernels& kernels() const { return kernels_; }
  const magicpig_pool& pool() const { return pool_; }
  PagePool& pages() { return pages_; }
  Workspace& workspace() { return workspace_; }
  bool disposed() const { return disposed_; }

 private:
  uint64_t Available() const;
  Error DoesNotFit(const char* what, uint64_t requested) const;
  void CopyRows(const Page& from, Page& to, uint32_t tokens) const;

  const Shape shape_;
  const uint64_t max_bytes_;
  const magicpig_pool pool_;
  const Kernels& kernels_;
  PagePool pages_;
  Workspace workspace_;
  bool disposed_ = false;
};

class Sequence {
 public:
  explicit Sequence(std::shared_ptr<Store> store) : store_(std::move(store)) {}
  ~Sequence() { Dispose(); }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  std::shared_ptr<Sequence> Fork();
  void Truncate(uint32_t length);
  void Dispose();

  const std::shared_ptr<Store>& store() const { return store_; }
  bool disposed() const { return disposed_ || store_->disposed(); }
  uint32_t length() const { return length_; }
  // Changes with every step, truncation, fork and disposal.
  uint64_t version() const { return version_; }
  // A number that each truncation lowers to the length that it leaves: for who keeps something of the tokens. Throws
  // std::bad_alloc.
  std::shared_ptr<uint32_t> WatchLength();
  // The sequence's pages in order.
  const std::vector<const uint8_t*>& bases() const { return bases_; }
  HeadRows Rows(uint32_t layer, uint32_t head) const;

 private:
  friend class Store;

  std::shared_ptr<Store> store_;
  std::vector<Page*> pages_;
  std::vector<const uint8_t*> bases_;  // data of pages_
  uint32_t length_ = 0;
  uint64_t version_ = 0;
  std::vector<std::weak_ptr<uint32_t>> watched_lengths_;
  bool disposed_ = false;
};

class Step {
 public:
  struct Entry {
    std::shared_ptr<Sequence> sequence;
    uint64_t version;  // of the sequence, just after the step was made
    uint32_t start;    // position of the first token
    uint32_t tokens;
    uint32_t row;  // the entry's first row
  };

  Step(std::shared_ptr<Store> store, std::vector<Entry> entries);

  // keys, values (rows, kv_heads * dim)
  Status Append(uint32_t layer, ConstRows keys, ConstRows values);
  Status Rollback();
  // Whether all sequences are as the step left them.
  Status Check() const;

  Store& store() const { return *store_; }
  const std::vector<Entry>& entries() const { return entries_; }
  uint32_t rows() const { return rows_; }
  bool appended(uint32_t layer) const { return appended_[layer]; }

 private:
  std::shared_ptr<Store> store_;
  std::vector<Entry> entries_;
  uint32_t rows_ = 0;
  std::vector<bool> appended_;  // (layers)
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_STORE_H_
