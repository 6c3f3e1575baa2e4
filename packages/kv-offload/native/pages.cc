#include "pages.h"

#include <algorithm>

#if !defined(_WIN32)
#include <sys/mman.h>
#endif

namespace magicpig::kv {
namespace {

// Large enough that a slab's bookkeeping and its last, partly used huge page do not matter; memory is committed only
// where pages are written.
constexpr size_t kSlabBytes = size_t{64} << 20;

}  // namespace

FileMapping::FileMapping([[maybe_unused]] int descriptor, size_t bytes) : bytes_(bytes) {
#if !defined(_WIN32)
  void* address = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0);
  if (address != MAP_FAILED) data_ = static_cast<uint8_t*>(address);
#endif
}

FileMapping::~FileMapping() {
#if !defined(_WIN32)
  if (data_ != nullptr) munmap(data_, bytes_);
#endif
}

struct Slab {
  std::unique_ptr<SlabMemory> memory;
  std::shared_ptr<FileMapping> file;  // instead of memory
  uint32_t count = 0;                 // pages
  std::unique_ptr<Page[]> pages;
  std::vector<Page*> free;  // the lowest address last, so that pages are handed out in ascending order
};

PagePool::PagePool(size_t page_bytes, bool pin)
    : page_bytes_(page_bytes),
      pages_per_slab_(static_cast<uint32_t>(std::max<size_t>(1, kSlabBytes / page_bytes))),
      source_(pin) {}

PagePool::~PagePool() = default;

Slab* PagePool::AddSlab() {
  auto slab = std::make_unique<Slab>();
  slab->count = pages_per_slab_;
  slab->pages = std::make_unique<Page[]>(pages_per_slab_);
  slab->free.reserve(pages_per_slab_);
  slabs_.reserve(slabs_.size() + 1);
  slab->memory = source_.Map(page_bytes_ * pages_per_slab_);
  if (slab->memory == nullptr) return nullptr;
  for (uint32_t i = pages_per_slab_; i-- > 0;) {
    slab->pages[i] = {slab->memory->data() + i * page_bytes_, 0, slab.get()};
    slab->free.push_back(&slab->pages[i]);
  }
  slabs_.push_back(std::move(slab));
  return slabs_.back().get();
}

Page* PagePool::Take() {
  // The oldest slab with room: younger ones then become empty first and can be given back.
  Slab* slab = nullptr;
  for (const auto& candidate : slabs_) {
    if (candidate->file == nullptr && !candidate->free.empty()) {
      slab = candidate.get();
      break;
    }
  }
  if (slab == nullptr) slab = AddSlab();
  if (slab == nullptr) return nullptr;
  Page* page = slab->free.back();
  slab->free.pop_back();
  page->references = 1;
  ++pages_;
  return page;
}

std::vector<Page*> PagePool::Adopt(std::shared_ptr<FileMapping> mapping, size_t offset, uint32_t count) {
  std::vector<Page*> adopted(count);
  if (count == 0) return adopted;
  auto slab = std::make_unique<Slab>();
  slab->count = count;
  slab->pages = std::make_unique<Page[]>(count);
  slab->free.reserve(count);
  slabs_.reserve(slabs_.size() + 1);
  for (uint32_t i = 0; i < count; ++i) {
    slab->pages[i] = {mapping->data() + offset + i * page_bytes_, 1, slab.get()};
    adopted[i] = &slab->pages[i];
  }
  slab->file = std::move(mapping);
  slabs_.push_back(std::move(slab));
  pages_ += count;
  return adopted;
}

void PagePool::Release(Page* page) {
  if (--page->references != 0) return;
  --pages_;
  Slab* slab = page->slab;
  slab->free.push_back(page);
  if (slab->free.size() < slab->count) return;
  // An empty slab goes back to the system when there is another one. The last one stays: a sequence that grows over the end of
  // a slab and is rolled back, or requests that come one after another, would otherwise map, clear and unmap the same memory
  // again and again.
  const auto empty = [&](const auto& other) {
    return other.get() != slab && other->file == nullptr && other->free.size() == other->count;
  };
  if (slab->file == nullptr && std::none_of(slabs_.begin(), slabs_.end(), empty)) return;
  slabs_.erase(std::find_if(slabs_.begin(), slabs_.end(), [&](const auto& s) { return s.get() == slab; }));
}

void PagePool::Clear() {
  slabs_.clear();
  source_.Close();
  pages_ = 0;
}

MemoryReport PagePool::Report() const {
  MemoryReport report{0, 0, 0, 0, source_.nodes(), source_.huge_reason(), source_.numa_reason(), source_.pin_reason()};
  std::vector<const SlabMemory*> own;
  for (const auto& slab : slabs_) {
    if (slab->file != nullptr) {
      report.mapped_bytes += slab->file->bytes();
    } else {
      own.push_back(slab->memory.get());
      report.reserved_bytes += slab->memory->bytes();
      report.pinned_bytes += slab->memory->pinned() ? slab->memory->bytes() : 0;
    }
  }
  report.huge_bytes = HugeBytes(own);
  return report;
}

}  // namespace magicpig::kv
