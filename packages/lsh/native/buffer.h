// Uninitialised memory of one type, 64-byte aligned, asking for huge pages where it is large: a query reads a few lines from
// each of some hundred places, and with 4 KiB pages most of these reads would miss the TLB as well.
#ifndef MAGICPIG_LSH_BUFFER_H_
#define MAGICPIG_LSH_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace magicpig::lsh {

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  // Throws std::bad_alloc.
  explicit Buffer(size_t size) : size_(size) {
    if (size == 0) return;
    if (size > SIZE_MAX / 2 / sizeof(T)) throw std::bad_alloc();
    const size_t bytes = size * sizeof(T);
    const bool huge = bytes >= 2 * kHugePage;
    void* data = nullptr;
    if (posix_memalign(&data, huge ? kHugePage : kLine, bytes) != 0) throw std::bad_alloc();
#if defined(__linux__)
    if (huge) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    data_ = static_cast<T*>(data);
  }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

  // Makes room for `size` elements, keeping the first `used`; grows by at least an eighth, so that appending one element at a
  // time is cheap and little is wasted. Throws std::bad_alloc, and then nothing has changed.
  void Reserve(size_t size, size_t used) {
    if (size <= size_) return;
    Buffer larger(size < size_ + size_ / 8 ? size_ + size_ / 8 : size);
    if (used > 0) std::memcpy(larger.data_, data_, used * sizeof(T));
    *this = std::move(larger);
  }

 private:
  static constexpr size_t kLine = 64;
  static constexpr size_t kHugePage = size_t{2} << 20;

  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_BUFFER_H_
