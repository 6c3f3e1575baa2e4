// The memory of slabs: in huge pages where the system gives them, near the threads, and pinned for CUDA when there is a
// device.
#ifndef MAGICPIG_KV_SLAB_MEMORY_H_
#define MAGICPIG_KV_SLAB_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda_host.h"

namespace magicpig::kv {

// A mapping of whole huge pages, zeroed; committed as it is touched, unless it is pinned.
class SlabMemory {
 public:
  ~SlabMemory();
  SlabMemory(const SlabMemory&) = delete;
  SlabMemory& operator=(const SlabMemory&) = delete;

  // nullptr when the system gave none.
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  bool pinned() const { return cuda_ != nullptr; }

 private:
  friend class SlabMemorySource;
  explicit SlabMemory(size_t bytes);

  uint8_t* data_ = nullptr;
  const size_t bytes_;
  std::shared_ptr<CudaHost> cuda_;  // that it is registered with, or nullptr
};

// Bytes of these that lie in huge pages now, as the system reports them.
uint64_t HugeBytes(const std::vector<const SlabMemory*>& slabs);

// Makes slabs' memory, and remembers what the system refused.
class SlabMemorySource {
 public:
  // Without `pin`, memory is never registered with CUDA.
  explicit SlabMemorySource(bool pin) : pin_(pin) {}

  // At least `bytes`; nullptr when the system gives no memory.
  std::unique_ptr<SlabMemory> Map(size_t bytes);
  // Lets go of the driver as soon as no slab is registered with it; nothing is pinned afterwards.
  void Close() { cuda_.reset(); }

  // NUMA nodes that memory is spread over; empty before the first mapping, and when the process runs on one node, where its
  // threads get local memory by touching it.
  const std::vector<uint32_t>& nodes() const { return nodes_; }
  // Why memory is not in huge pages, not spread, not pinned; empty when it is, or was not asked for yet.
  const std::string& huge_reason() const { return huge_reason_; }
  const std::string& numa_reason() const { return numa_reason_; }
  const std::string& pin_reason() const { return pin_reason_; }

 private:
  void Prepare();

  const bool pin_;
  bool prepared_ = false;
  std::vector<uint32_t> nodes_;
  std::shared_ptr<CudaHost> cuda_;
  std::string huge_reason_, numa_reason_, pin_reason_;
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SLAB_MEMORY_H_
