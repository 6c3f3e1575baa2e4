// Where memory should lie on a machine with several NUMA nodes.
#ifndef MAGICPIG_KV_NUMA_H_
#define MAGICPIG_KV_NUMA_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace magicpig::kv {

// The nodes that have memory and on whose CPUs the process may run, ascending; empty where the system does not say.
// `sysfs` is the folder of the nodes, `cpus` the CPUs of the process.
std::vector<uint32_t> LocalNodes(const std::string& sysfs, const std::vector<uint32_t>& cpus);
// Those of this process.
std::vector<uint32_t> LocalNodes();

// Spreads memory that was not touched yet over the nodes page by page, so that all of their memory controllers serve threads
// that run on all of them. False when the system refuses, and errno says why.
bool Interleave(const std::vector<uint32_t>& nodes, void* data, size_t bytes);

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_NUMA_H_
