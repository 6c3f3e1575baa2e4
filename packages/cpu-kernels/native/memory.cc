#include "memory.h"

#include <stdlib.h>
#include <string.h>

#include <new>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#define MAGICPIG_HAS_MMAP 1
#endif

namespace magicpig::cpu {
namespace {

constexpr size_t kMapFrom = size_t{1} << 20;
constexpr size_t kLargePage = size_t{2} << 20;
constexpr size_t kSlab = size_t{64} << 20;
// Larger pieces get a slab of their own: what they leave of a shared one would be lost.
constexpr size_t kMostOfSlab = kSlab / 4;

size_t RoundUp(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

#if defined(MAGICPIG_HAS_MMAP)
// `bytes` (a multiple of kLargePage) at a multiple of kLargePage, or null.
void* MapAligned(size_t bytes) {
  void* base = mmap(nullptr, bytes + kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  const uintptr_t start = reinterpret_cast<uintptr_t>(base);
  const uintptr_t aligned = RoundUp(start, kLargePage);
  if (aligned > start) munmap(base, aligned - start);
  const size_t tail = start + kLargePage - aligned;
  if (tail > 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
#if defined(MADV_HUGEPAGE)
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);  // a hint: without large pages all still works
#endif
  return reinterpret_cast<void*>(aligned);
}
#endif

}  // namespace

Block& Block::operator=(Block&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

Block::~Block() {
#if defined(MAGICPIG_HAS_MMAP)
  if (mapped_ > 0) {
    munmap(data_, mapped_);
    return;
  }
#endif
  ::operator delete(data_, std::align_val_t{kAlignment});
}

Block Block::Allocate(size_t size) {
  Block block;
  if (size > SIZE_MAX - 2 * kLargePage) return block;
#if defined(MAGICPIG_HAS_MMAP)
  if (size >= kMapFrom) {
    const size_t bytes = RoundUp(size, kLargePage);
    block.data_ = static_cast<std::byte*>(MapAligned(bytes));
    if (block.data_) block.mapped_ = bytes;
    block.size_ = block.data_ ? size : 0;
    return block;
  }
#endif
  const size_t bytes = RoundUp(size > 0 ? size : 1, kAlignment);
  block.data_ = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kAlignment}, std::nothrow));
  if (!block.data_) return block;
  memset(block.data_, 0, bytes);
  block.size_ = size;
  return block;
}

Arena::Piece Arena::Allocate(size_t size) {
  if (size > SIZE_MAX / 2) return {};
  const size_t bytes = RoundUp(size > 0 ? size : 1, kAlignment);
  if (bytes > kMostOfSlab) {
    auto own = std::make_shared<Block>(Block::Allocate(bytes));
    std::byte* data = own->data();
    if (!data) return {};
    return {std::move(own), data};
  }
  if (!slab_ || slab_->size() - used_ < bytes) {
    auto slab = std::make_shared<Block>(Block::Allocate(kSlab));
    if (!*slab) return {};
    slab_ = std::move(slab);
    used_ = 0;
  }
  std::byte* data = slab_->data() + used_;
  used_ += bytes;
  return {slab_, data};
}

}  // namespace magicpig::cpu
