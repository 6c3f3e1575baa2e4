// Fixed-size pages cut from large slabs of memory.
#ifndef MAGICPIG_KV_PAGES_H_
#define MAGICPIG_KV_PAGES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "slab_memory.h"

namespace magicpig::kv {

struct Slab;

// A file's bytes in memory, private to the process: writing to them leaves the file as it is.
class FileMapping {
 public:
  // data() is nullptr when the system refused, and errno says why.
  FileMapping(int descriptor, size_t bytes);
  ~FileMapping();
  FileMapping(const FileMapping&) = delete;
  FileMapping& operator=(const FileMapping&) = delete;

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  const size_t bytes_;
};

struct Page {
  uint8_t* data = nullptr;  // (page_bytes), 64-byte aligned
  uint32_t references = 0;  // sequences that hold it
  Slab* slab = nullptr;
};

// What the system gave.
struct MemoryReport {
  uint64_t reserved_bytes;  // address space of slabs
  uint64_t mapped_bytes;    // of files
  uint64_t huge_bytes;      // of slabs, in huge pages now
  uint64_t pinned_bytes;    // of slabs, registered with CUDA
  std::vector<uint32_t> numa_nodes;  // over which slabs are spread; empty for one
  std::string huge_reason, numa_reason, pin_reason;  // why not, where it is not so
};

// Not thread-safe: only the thread that makes steps takes and gives back pages.
class PagePool {
 public:
  // Without `pin`, memory is not registered with CUDA even when there is a device.
  explicit PagePool(size_t page_bytes, bool pin = true);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // A page with one reference and undefined contents; nullptr when the system gives no memory.
  Page* Take();
  // Pages of a file, `count` of them from `offset` bytes on, each with one reference. They are unmapped together when the
  // last is released, and never handed out again. Throws std::bad_alloc.
  std::vector<Page*> Adopt(std::shared_ptr<FileMapping> mapping, size_t offset, uint32_t count);
  void Retain(Page* page) { ++page->references; }
  void Release(Page* page);
  // Frees all pages at once, whoever holds them, for good.
  void Clear();

  size_t page_bytes() const { return page_bytes_; }
  // Pages in use.
  uint64_t pages() const { return pages_; }
  uint64_t bytes() const { return pages_ * page_bytes_; }
  size_t slabs() const { return slabs_.size(); }
  MemoryReport Report() const;

 private:
  Slab* AddSlab();

  const size_t page_bytes_;
  const uint32_t pages_per_slab_;
  uint64_t pages_ = 0;
  SlabMemorySource source_;
  std::vector<std::unique_ptr<Slab>> slabs_;
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_PAGES_H_
