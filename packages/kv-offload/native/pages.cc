#include "pages.h"

#include <algorithm>
#include <new>

#if !defined(_WIN32)
#include <sys/mman.h>
#endif

namespace magicpig::kv {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// Large enough that a slab's bookkeeping and its last, partly used huge page do not matter; memory is committed only
// where pages are written.
constexpr size_t kSlabBytes = size_t{64} << 20;

struct Mapping {
  uint8_t* data = nullptr;
  size_t bytes = 0;
  bool huge = false;
};

Mapping Map(size_t bytes) {
  Mapping mapping;
  mapping.bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
#if defined(__linux__)
  // One huge page more than needed, so that the used part can start at a huge page's boundary; what sticks out goes back.
  void* address =
      mmap(nullptr, mapping.bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return {};
  auto* begin = static_cast<uint8_t*>(address);
  mapping.data = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(begin) + kHugePage - 1) & ~(kHugePage - 1));
  if (mapping.data != begin) munmap(begin, static_cast<size_t>(mapping.data - begin));
  const size_t behind = static_cast<size_t>(begin + kHugePage - mapping.data);
  if (behind != 0) munmap(mapping.data + mapping.bytes, behind);
  mapping.huge = madvise(mapping.data, mapping.bytes, MADV_HUGEPAGE) == 0;
#else
  mapping.data = static_cast<uint8_t*>(::operator new(mapping.bytes, std::align_val_t{64}, std::nothrow));
  if (mapping.data == nullptr) return {};
#endif
  return mapping;
}

void Unmap(const Mapping& mapping) {
  if (mapping.data == nullptr) return;
#if defined(__linux__)
  munmap(mapping.data, mapping.bytes);
#else
  ::operator delete(mapping.data, std::align_val_t{64});
#endif
}

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
  Mapping mapping;
  std::shared_ptr<FileMapping> file;  // instead of mapping
  uint32_t count = 0;                 // pages
  std::unique_ptr<Page[]> pages;
  std::vector<Page*> free;  // the lowest address last, so that pages are handed out in ascending order

  ~Slab() { Unmap(mapping); }
};

PagePool::PagePool(size_t page_bytes)
    : page_bytes_(page_bytes), pages_per_slab_(static_cast<uint32_t>(std::max<size_t>(1, kSlabBytes / page_bytes))) {}

PagePool::~PagePool() = default;

Slab* PagePool::AddSlab() {
  auto slab = std::make_unique<Slab>();
  slab->count = pages_per_slab_;
  slab->pages = std::make_unique<Page[]>(pages_per_slab_);
  slab->free.reserve(pages_per_slab_);
  slabs_.reserve(slabs_.size() + 1);
  slab->mapping = Map(page_bytes_ * pages_per_slab_);
  if (slab->mapping.data == nullptr) return nullptr;
  for (uint32_t i = pages_per_slab_; i-- > 0;) {
    slab->pages[i] = {slab->mapping.data + i * page_bytes_, 0, slab.get()};
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
  // An empty slab goes back to the system, except the only one: requests that come one after another would otherwise
  // map, clear and unmap the same memory again and again.
  const auto own = std::count_if(slabs_.begin(), slabs_.end(), [](const auto& s) { return s->file == nullptr; });
  if (slab->file == nullptr && own == 1) return;
  slabs_.erase(std::find_if(slabs_.begin(), slabs_.end(), [&](const auto& s) { return s.get() == slab; }));
}

void PagePool::Clear() {
  slabs_.clear();
  pages_ = 0;
}

uint64_t PagePool::reserved_bytes() const {
  uint64_t bytes = 0;
  for (const auto& slab : slabs_) bytes += slab->file != nullptr ? slab->file->bytes() : slab->mapping.bytes;
  return bytes;
}

bool PagePool::huge_pages() const {
  return !slabs_.empty() &&
         std::all_of(slabs_.begin(), slabs_.end(), [](const auto& s) { return s->file != nullptr || s->mapping.huge; });
}

}  // namespace magicpig::kv
