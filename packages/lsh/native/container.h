// A file of sections: what is common to all files of this package, knowing nothing of what the sections hold.
//
//   header         64 bytes
//   section table  32 bytes for each section, strictly ascending by (index, kind)
//   contents       each section at the first multiple of 64 behind the one before, zeros between; the file ends with the last
//
// docs/format.md has the fields. All numbers are little-endian. Checksums are CRC-32 (polynomial 0xEDB88320, as in zlib): one of
// the header, one of the table, and one of each section's contents.
#ifndef MAGICPIG_LSH_CONTAINER_H_
#define MAGICPIG_LSH_CONTAINER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../include/magicpig/pool.h"
#include "buffer.h"

namespace magicpig::lsh {

// What is wrong with a file: `code` is IO when the system says so, CORRUPT_FILE when its contents are not as they should be.
class FileError : public std::runtime_error {
 public:
  FileError(const char* code, const std::string& message) : std::runtime_error(message), code(code) {}
  const char* const code;
};

FileError Corrupt(const std::string& message);

// Four letters as a number, the first in the lowest byte.
constexpr uint32_t FourCc(const char (&text)[5]) {
  uint32_t code = 0;
  for (int i = 3; i >= 0; --i) code = code << 8 | static_cast<uint8_t>(text[i]);
  return code;
}

// Kind and version of a file's contents.
struct ContainerKind {
  uint32_t kind;
  uint32_t version;
};

// Collects sections and writes them. Their bytes must not change before.
class ContainerWriter {
 public:
  explicit ContainerWriter(ContainerKind kind) : kind_(kind) {}

  // Adds bytes to section (index, kind).
  void Add(uint32_t index, uint32_t kind, const void* data, size_t bytes);

  // Of the file.
  size_t bytes() const;
  // Writes bytes() bytes. Checksums are computed on the pool.
  void Write(const magicpig_pool& pool, uint8_t* to) const;
  // Writes a temporary file beside `path`, flushes it to the disk and renames it: whoever opens `path` sees the old file or the
  // whole new one. Throws FileError, and then `path` is as it was.
  void Save(const magicpig_pool& pool, const std::string& path) const;

 private:
  struct Piece {
    const void* data;
    size_t bytes;
  };
  struct Section {
    size_t bytes = 0;
    std::vector<Piece> pieces;
  };
  // Calls put(data, bytes) for the whole file in order.
  template <typename Put>
  void Emit(const magicpig_pool& pool, Put&& put) const;

  ContainerKind kind_;
  std::map<std::pair<uint32_t, uint32_t>, Section> sections_;  // by (index, kind)
};

// An open file, or a copy of its bytes. Opening checks the header, the table and the bounds of all sections, so that it takes no
// time; Verify reads the contents.
class Container {
 public:
  struct Section {
    const uint8_t* data;  // 64-byte aligned
    size_t bytes;
  };

  // Maps a file. It must not be cut short while it is mapped; replacing it by Save does no harm. Throws FileError.
  static std::shared_ptr<const Container> Open(const std::string& path, ContainerKind kind);
  static std::shared_ptr<const Container> Copy(const uint8_t* data, size_t bytes, ContainerKind kind);
  ~Container();
  Container(const Container&) = delete;
  Container& operator=(const Container&) = delete;

  bool Has(uint32_t index, uint32_t kind) const { return Find(index, kind).data != nullptr; }
  // Contents of section (index, kind), which must have exactly `count` elements of T; a missing one has none. Throws FileError.
  template <typename T>
  const T* Get(uint32_t index, uint32_t kind, size_t count) const {
    const Section section = Find(index, kind);
    if (count > SIZE_MAX / sizeof(T) || section.bytes != count * sizeof(T)) throw WrongSize(index, kind);
    return reinterpret_cast<const T*>(section.data);
  }

  // Checks the contents of all sections and the zeros between them. Throws FileError.
  void Verify(const magicpig_pool& pool) const;

 private:
  Container() = default;
  void Check(ContainerKind kind) const;
  Section Find(uint32_t index, uint32_t kind) const;
  static FileError WrongSize(uint32_t index, uint32_t kind);

  const uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  bool mapped_ = false;
  Buffer<uint8_t> copy_;
};

// CRC-32 of bytes behind those that gave `crc` (0 at first).
uint32_t Crc32(uint32_t crc, const void* data, size_t bytes);

}  // namespace magicpig::lsh

#endif  // MAGICPIG_LSH_CONTAINER_H_
