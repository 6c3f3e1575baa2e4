// A sequence in a file: written atomically, checksummed, and mapped back without copying.
#ifndef MAGICPIG_KV_SNAPSHOT_H_
#define MAGICPIG_KV_SNAPSHOT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store.h"

namespace magicpig::kv {

// Writes the sequence and an attachment (the caller's own bytes: tables, means). `path` is replaced when everything is on
// disk; a crash before that leaves what was there.
Status SaveSnapshot(const Sequence& sequence, const uint8_t* attachment, size_t attachment_bytes, const std::string& path);

// Maps a snapshot into the store. The pages are private to the process: appending to the sequence leaves the file as it
// is. Throws std::bad_alloc.
Status LoadSnapshot(const std::shared_ptr<Store>& store, const std::string& path, std::shared_ptr<Sequence>& sequence,
                    std::vector<uint8_t>& attachment);

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_SNAPSHOT_H_
