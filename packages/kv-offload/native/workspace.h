// Working memory of attention calls, kept between them: grown on the calling thread, never by a task.
#ifndef MAGICPIG_KV_WORKSPACE_H_
#define MAGICPIG_KV_WORKSPACE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace magicpig::kv {

// Bytes aligned to 64, contents undefined.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer() { Free(); }
  Buffer(Buffer&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
    other.data_ = nullptr;
    other.bytes_ = 0;
  }
  Buffer& operator=(Buffer&&) = delete;

  // At least `bytes` of room; what was there is lost. Throws std::bad_alloc.
  uint8_t* Reserve(size_t bytes) {
    if (bytes > bytes_) {
      Free();
      const size_t grown = bytes + bytes / 4;  // a context that grows by a token a call must not reallocate each time
      data_ = static_cast<uint8_t*>(::operator new(grown, std::align_val_t{64}));
      bytes_ = grown;
    }
    return data_;
  }
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void Free() {
    if (data_ != nullptr) ::operator delete(data_, std::align_val_t{64});
    data_ = nullptr;
    bytes_ = 0;
  }

  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
};

struct Workspace {
  std::vector<Buffer> threads;  // one for each thread of the pool
  Buffer partials;              // states of parts of one query's keys, waiting to be merged
  std::unique_ptr<std::atomic<uint32_t>[]> remaining;  // parts not yet done, one for each set of partials
  size_t remaining_size = 0;

  std::atomic<uint32_t>* ReserveRemaining(size_t count) {
    if (count > remaining_size) {
      remaining = std::make_unique<std::atomic<uint32_t>[]>(count);
      remaining_size = count;
    }
    return remaining.get();
  }
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_WORKSPACE_H_
