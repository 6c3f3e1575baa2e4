#include "numa.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <sstream>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace magicpig::kv {
namespace {

// The numbers of a list such as "0-3,8"; none when the file is not there.
std::vector<uint32_t> ReadList(const std::string& path) {
  std::vector<uint32_t> numbers;
  std::ifstream file(path);
  std::string range;
  while (std::getline(file, range, ',')) {
    std::istringstream text(range);
    uint32_t first, last;
    char dash;
    if (!(text >> first)) continue;
    if (!(text >> dash >> last)) last = first;
    for (uint32_t i = first; i <= last; ++i) numbers.push_back(i);
  }
  return numbers;
}

}  // namespace

std::vector<uint32_t> LocalNodes(const std::string& sysfs, const std::vector<uint32_t>& cpus) {
  std::vector<uint32_t> nodes;
  for (const uint32_t node : ReadList(sysfs + "/has_memory")) {
    for (const uint32_t cpu : ReadList(sysfs + "/node" + std::to_string(node) + "/cpulist")) {
      if (std::find(cpus.begin(), cpus.end(), cpu) == cpus.end()) continue;
      nodes.push_back(node);
      break;
    }
  }
  return nodes;
}

#if defined(__linux__)

std::vector<uint32_t> LocalNodes() {
  std::vector<uint32_t> cpus;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  return LocalNodes("/sys/devices/system/node", cpus);
}

bool Interleave(const std::vector<uint32_t>& nodes, void* data, size_t bytes) {
  constexpr int kInterleave = 3;  // MPOL_INTERLEAVE of linux/mempolicy.h
  constexpr uint32_t kBits = 8 * sizeof(unsigned long);
  std::vector<unsigned long> mask(nodes.back() / kBits + 1);
  for (const uint32_t node : nodes) mask[node / kBits] |= 1ul << node % kBits;
  // The kernel takes the number of bits plus one.
  return syscall(SYS_mbind, data, bytes, kInterleave, mask.data(), mask.size() * kBits + 1, 0) == 0;
}

#else

std::vector<uint32_t> LocalNodes() { return {}; }

bool Interleave(const std::vector<uint32_t>&, void*, size_t) {
  errno = ENOSYS;
  return false;
}

#endif

}  // namespace magicpig::kv
