// A sequence in a file: written atomically, checksummed, and mapped back without copying.
#ifndef MAGICPIG_KV_SNAPSHOT_H_
#define MAGICPIG_KV_SNAPSHOT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store.h"

namespace magicpig::kv {

// The caller's own bytes under a name: tables, means, the tokens.
struct Attachment {
  std::string name;
  const uint8_t* data;
  size_t bytes;
};

struct Snapshot {
  std::shared_ptr<Sequence> sequence;
  // Their data lie in `mapping`, at multiples of 64 bytes.
  std::vector<Attachment> attachments;
  std::shared_ptr<FileMapping> mapping;
};

// Writes the sequence and its attachments, from where they lie. `path` is replaced when everything is on disk; a crash
// before that leaves what was there.
Status SaveSnapshot(const Sequence& sequence, const std::vector<Attachment>& attachments, const std::string& path);

// Maps a snapshot into the store. The memory is private to the process: writing to it leaves the file as it is. Throws
// std::bad_alloc.
Status LoadSnapshot(const std::shared_ptr<Store>& store, const std::string& path, Snapshot& snapshot);

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SNAPSHOT_H_
