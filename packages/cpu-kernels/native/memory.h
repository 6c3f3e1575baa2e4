// Memory of tensors, weights and scratch: 64-byte aligned, on large pages where the system gives them.
#ifndef MAGICPIG_CPU_MEMORY_H_
#define MAGICPIG_CPU_MEMORY_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <mutex>

namespace magicpig::cpu {

inline constexpr size_t kAlignment = 64;

// An owned block of at least `size` bytes. Empty after a failed allocation. Blocks of a megabyte and more are mapped for
// themselves, zeroed, with a hint for large pages: weights are read in streams, which 4 KiB pages slow down by a tenth.
class Block {
 public:
  Block() = default;
  Block(Block&& other) noexcept { *this = static_cast<Block&&>(other); }
  Block& operator=(Block&& other) noexcept;
  ~Block();

  // Contents are zero.
  static Block Allocate(size_t size);

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;  // bytes mapped; 0 when from the heap
};

// Cuts many long-lived blocks (weights of up to a few megabytes) out of large ones, so that large pages fit them.
class Arena {
 public:
  // Keeps its slab alive.
  struct Piece {
    std::shared_ptr<Block> slab;
    std::byte* data = nullptr;
  };

  // Zeroed; data is null when the system has no memory. A piece's memory returns to the system when its slab's last piece
  // goes.
  Piece Allocate(size_t size);

 private:
  std::shared_ptr<Block> slab_;
  size_t used_ = 0;
};

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_MEMORY_H_
