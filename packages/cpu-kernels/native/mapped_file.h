// A file mapped read-only into memory.
#ifndef MAGICPIG_CPU_MAPPED_FILE_H_
#define MAGICPIG_CPU_MAPPED_FILE_H_

#include <stddef.h>
#include <stdint.h>

namespace magicpig::cpu {

class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() { Unmap(); }

  // Null on success, otherwise the system's error code by name ("ENOENT"), or "EMPTY".
  const char* Map(const char* path);
  void Unmap();
  // Gives the pages that were read back to the system; they are read again when touched.
  void Trim() const;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace magicpig::cpu

#endif  // MAGICPIG_CPU_MAPPED_FILE_H_
