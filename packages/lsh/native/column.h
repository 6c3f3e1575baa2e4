// An array that grows. Copies share its memory until one of them is written to, from whichever threads: each copy is one
// thread's, and what is shared is only read.
#ifndef MAGICPIG_LSH_COLUMN_H_
#define MAGICPIG_LSH_COLUMN_H_

#include <atomic>
#include <cstddef>
#include <cstring>
#include <utility>

#include "buffer.h"

namespace magicpig::lsh {

// T is trivially copyable.
template <typename T>
class Column {
 public:
  Column() = default;
  // Uninitialised. Throws std::bad_alloc.
  explicit Column(size_t size) : own_(size > 0 ? new Own(size) : nullptr), data_(mutable_data()) {}
  // In memory of somebody else, which is never written to.
  static Column View(const T* data) {
    Column view;
    view.data_ = data;
    return view;
  }
  static Column Copy(const T* data, size_t size) {
    Column copy(size);
    if (size > 0) std::memcpy(copy.mutable_data(), data, size * sizeof(T));
    return copy;
  }

  Column(const Column& other) : own_(other.own_), data_(other.data_) {
    if (own_ != nullptr) own_->holders.fetch_add(1, std::memory_order_relaxed);
  }
  Column(Column&& other) noexcept : own_(std::exchange(other.own_, nullptr)), data_(std::exchange(other.data_, nullptr)) {}
  Column& operator=(Column other) noexcept {
    std::swap(own_, other.own_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~Column() {
    if (own_ != nullptr && own_->holders.fetch_sub(1, std::memory_order_acq_rel) == 1) delete own_;
  }

  const T* data() const { return data_; }
  // Before there are copies.
  T* mutable_data() { return own_ != nullptr ? own_->buffer.data() : nullptr; }
  bool owned() const { return own_ != nullptr; }
  // Allocated, other holders' part included.
  size_t bytes() const { return own_ != nullptr ? own_->buffer.bytes() : 0; }
  // The same, divided among the holders and rounded up: summed over all of them it is what is allocated.
  size_t share() const {
    if (own_ == nullptr) return 0;
    const size_t holders = own_->holders.load(std::memory_order_relaxed);
    return (own_->buffer.bytes() + holders - 1) / holders;
  }

  // Makes room for `size` elements that nobody else sees, keeping the first `used`; grows by at least an eighth, so that
  // appending one element at a time is cheap and little is wasted. Throws std::bad_alloc, and then nothing has changed.
  T* Reserve(size_t size, size_t used) {
    // Acquires what the last of the others read before it let go.
    const bool alone = own_ != nullptr && own_->holders.load(std::memory_order_acquire) == 1;
    const size_t room = own_ != nullptr ? own_->buffer.size() : 0;
    if (!alone || size > room) {
      Column larger(size > room && size < room + room / 8 ? room + room / 8 : size);
      if (used > 0) std::memcpy(larger.mutable_data(), data_, used * sizeof(T));
      *this = std::move(larger);
    }
    return mutable_data();
  }

 private:
  struct Own {
    explicit Own(size_t size) : buffer(size) {}
    std::atomic<size_t> holders{1};
    Buffer<T> buffer;
  };

  Own* own_ = nullptr;
  const T* data_ = nullptr;
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_COLUMN_H_
