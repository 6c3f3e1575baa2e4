#include "slab_memory.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <new>

#include "numa.h"

#if !defined(_WIN32)
#include <sys/mman.h>
#endif

namespace magicpig::kv {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::string Refused(const char* call) { return std::string(call) + ": " + std::strerror(errno) + "."; }

#if defined(__linux__)

// `bytes` at a huge page's boundary; nullptr when there is no memory.
uint8_t* MapAligned(size_t bytes) {
  // One huge page more than needed; what sticks out at either end goes back.
  void* address = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return nullptr;
  auto* begin = static_cast<uint8_t*>(address);
  auto* data = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(begin) + kHugePage - 1) & ~(kHugePage - 1));
  if (data != begin) munmap(begin, static_cast<size_t>(data - begin));
  const auto behind = static_cast<size_t>(begin + kHugePage - data);
  if (behind != 0) munmap(data + bytes, behind);
  return data;
}

// Whether the system's setting forbids transparent huge pages.
bool HugePagesOff() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string setting;
  std::getline(file, setting);
  return setting.find("[never]") != std::string::npos;
}

#endif

}  // namespace

SlabMemory::SlabMemory(size_t bytes) : bytes_(bytes) {
#if defined(__linux__)
  data_ = MapAligned(bytes);
#else
  data_ = static_cast<uint8_t*>(::operator new(bytes, std::align_val_t{64}, std::nothrow));
#endif
}

SlabMemory::~SlabMemory() {
  if (data_ == nullptr) return;
  if (cuda_ != nullptr) cuda_->Unregister(data_);
#if defined(__linux__)
  munmap(data_, bytes_);
#else
  ::operator delete(data_, std::align_val_t{64});
#endif
}

uint64_t HugeBytes([[maybe_unused]] const std::vector<const SlabMemory*>& slabs) {
  uint64_t total = 0;
#if defined(__linux__)
  // Each mapping is a line "begin-end ..." and, below it, its properties. Neighbouring slabs may be one mapping.
  std::ifstream file("/proc/self/smaps");
  double ours = 0.0;  // share of the present mapping
  for (std::string line; std::getline(file, line);) {
    unsigned long long begin, end, kilobytes;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &begin, &end) == 2) {
      uint64_t overlap = 0;
      for (const SlabMemory* slab : slabs) {
        const auto data = reinterpret_cast<uint64_t>(slab->data());
        const uint64_t low = std::max<uint64_t>(begin, data), high = std::min<uint64_t>(end, data + slab->bytes());
        if (high > low) overlap += high - low;
      }
      ours = static_cast<double>(overlap) / static_cast<double>(end - begin);
    } else if (ours > 0.0 && std::sscanf(line.c_str(), "AnonHugePages: %llu kB", &kilobytes) == 1) {
      total += static_cast<uint64_t>(ours * static_cast<double>(kilobytes) * 1024.0);
    }
  }
#endif
  return total;
}

void SlabMemorySource::Prepare() {
  prepared_ = true;
  nodes_ = LocalNodes();
  if (nodes_.size() < 2) {
    nodes_.clear();
    numa_reason_ = "The process runs on one NUMA node.";
  }
  if (pin_) cuda_ = CudaHost::Open(pin_reason_);
}

std::unique_ptr<SlabMemory> SlabMemorySource::Map(size_t bytes) {
  if (!prepared_) Prepare();
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  std::unique_ptr<SlabMemory> memory(new SlabMemory(bytes));
  if (memory->data() == nullptr) return nullptr;
#if defined(__linux__)
  if (madvise(memory->data_, memory->bytes_, MADV_HUGEPAGE) != 0) {
    huge_reason_ = Refused("madvise(MADV_HUGEPAGE)");
  } else if (HugePagesOff()) {
    huge_reason_ = "/sys/kernel/mm/transparent_hugepage/enabled is [never].";
  }
  if (!nodes_.empty() && !Interleave(nodes_, memory->data_, memory->bytes_)) {
    numa_reason_ = Refused("mbind");
    nodes_.clear();
  }
#else
  huge_reason_ = "Huge pages are asked for on Linux only.";
#endif
  if (cuda_ != nullptr && cuda_->Register(memory->data_, memory->bytes_, pin_reason_)) memory->cuda_ = cuda_;
  return memory;
}

}  // namespace magicpig::kv
