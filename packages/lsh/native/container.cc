#include "container.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "../include/magicpig/thread_pool.h"

namespace magicpig::lsh {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian and are mapped as they are");

constexpr uint8_t kMagic[8] = {0x89, 'M', 'P', 'I', 'G', '\r', '\n', '\n'};
constexpr uint32_t kVersion = 1;
constexpr size_t kAlignment = 64;

struct Header {
  uint8_t magic[8];
  uint32_t version;
  uint32_t kind;
  uint32_t kind_version;
  uint32_t sections;
  uint64_t bytes;       // of the file
  uint32_t table_crc;
  uint32_t zero[6];
  uint32_t header_crc;  // of all before
};
static_assert(sizeof(Header) == 64);

struct Entry {
  uint32_t index;
  uint32_t kind;
  uint64_t offset;
  uint64_t bytes;
  uint32_t crc;
  uint32_t zero;
};
static_assert(sizeof(Entry) == 32);

constexpr size_t Align(size_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }
constexpr uint64_t Order(uint32_t index, uint32_t kind) { return uint64_t{index} << 32 | kind; }

std::string Name(uint32_t index, uint32_t kind) {
  char text[32];
  std::snprintf(text, sizeof text, "%c%c%c%c %u", static_cast<int>(kind & 0xff), static_cast<int>(kind >> 8 & 0xff),
                static_cast<int>(kind >> 16 & 0xff), static_cast<int>(kind >> 24), index);
  return text;
}

FileError System(const char* verb, const std::string& path, int error) {
  return FileError("IO", "Cannot " + std::string(verb) + " " + path + ": " + std::strerror(error) + ".");
}

// Slicing by 16: table[k][b] is the CRC of byte b followed by k zeros.
constexpr auto MakeTables() {
  std::array<std::array<uint32_t, 256>, 16> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int i = 0; i < 8; ++i) crc = crc & 1 ? crc >> 1 ^ 0xEDB88320u : crc >> 1;
    tables[0][b] = crc;
  }
  for (size_t k = 1; k < tables.size(); ++k) {
    for (size_t b = 0; b < 256; ++b) tables[k][b] = tables[k - 1][b] >> 8 ^ tables[0][tables[k - 1][b] & 0xff];
  }
  return tables;
}
constexpr auto kTables = MakeTables();

// A file that is closed, and removed unless renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& path) {
    static std::atomic<uint32_t> count{0};
    path_ = path + "." + std::to_string(getpid()) + "-" + std::to_string(count.fetch_add(1)) + ".tmp";
    fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0) throw System("create", path_, errno);
  }
  ~TemporaryFile() {
    close(fd_);
    if (!renamed_) unlink(path_.c_str());
  }

  void Write(const void* data, size_t bytes) {
    for (const auto* at = static_cast<const uint8_t*>(data); bytes > 0;) {
      const ssize_t written = write(fd_, at, std::min(bytes, size_t{1} << 30));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) throw System("write", path_, errno);
      at += written;
      bytes -= static_cast<size_t>(written);
    }
  }

  void Rename(const std::string& path) {
    if (fsync(fd_) != 0) throw System("flush", path_, errno);
    if (rename(path_.c_str(), path.c_str()) != 0) throw System("replace", path, errno);
    renamed_ = true;
    // The new name is safe once its directory is; not every file system can flush one, and the file is whole in any case.
    const size_t slash = path.find_last_of('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const int directory = open(folder.c_str(), O_RDONLY | O_CLOEXEC);
    if (directory < 0) return;
    fsync(directory);
    close(directory);
  }

 private:
  std::string path_;
  int fd_;
  bool renamed_ = false;
};

}  // namespace

FileError Corrupt(const std::string& message) { return FileError("CORRUPT_FILE", message); }

uint32_t Crc32(uint32_t crc, const void* data, size_t bytes) {
  const auto* p = static_cast<const uint8_t*>(data);
  crc = ~crc;
  for (; bytes >= 16; bytes -= 16, p += 16) {
    uint32_t words[4];
    std::memcpy(words, p, sizeof words);
    words[0] ^= crc;
    crc = 0;
    for (int w = 0; w < 4; ++w) {
      for (int b = 0; b < 4; ++b) crc ^= kTables[15 - (4 * w + b)][words[w] >> 8 * b & 0xff];
    }
  }
  for (; bytes > 0; --bytes) crc = crc >> 8 ^ kTables[0][(crc ^ *p++) & 0xff];
  return ~crc;
}

void ContainerWriter::Add(uint32_t index, uint32_t kind, const void* data, size_t bytes) {
  Section& section = sections_[{index, kind}];
  section.bytes += bytes;
  if (bytes > 0) section.pieces.push_back({data, bytes});
}

size_t ContainerWriter::bytes() const {
  size_t end = sizeof(Header) + sections_.size() * sizeof(Entry);
  for (const auto& [name, section] : sections_) end = Align(end) + section.bytes;
  return end;
}

template <typename Put>
void ContainerWriter::Emit(const magicpig_pool& pool, Put&& put) const {
  std::vector<Entry> table;
  std::vector<const Section*> sections;
  for (const auto& [name, section] : sections_) {
    table.push_back({name.first, name.second, 0, section.bytes, 0, 0});
    sections.push_back(&section);
  }
  ParallelFor(pool, static_cast<uint32_t>(table.size()), [&](uint32_t s, uint32_t) {
    for (const Piece& piece : sections[s]->pieces) table[s].crc = Crc32(table[s].crc, piece.data, piece.bytes);
  });
  size_t end = sizeof(Header) + table.size() * sizeof(Entry);
  for (Entry& entry : table) end = (entry.offset = Align(end)) + entry.bytes;

  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.kind = kind_.kind;
  header.kind_version = kind_.version;
  header.sections = static_cast<uint32_t>(table.size());
  header.bytes = end;
  header.table_crc = Crc32(0, table.data(), table.size() * sizeof(Entry));
  header.header_crc = Crc32(0, &header, offsetof(Header, header_crc));

  static constexpr uint8_t kZeros[kAlignment] = {};
  put(&header, sizeof header);
  put(table.data(), table.size() * sizeof(Entry));
  size_t at = sizeof header + table.size() * sizeof(Entry);
  for (const Section* section : sections) {
    put(kZeros, Align(at) - at);
    for (const Piece& piece : section->pieces) put(piece.data, piece.bytes);
    at = Align(at) + section->bytes;
  }
}

void ContainerWriter::Write(const magicpig_pool& pool, uint8_t* to) const {
  Emit(pool, [&](const void* data, size_t bytes) {
    if (bytes > 0) std::memcpy(to, data, bytes);
    to += bytes;
  });
}

void ContainerWriter::Save(const magicpig_pool& pool, const std::string& path) const {
  TemporaryFile file(path);
  Emit(pool, [&](const void* data, size_t bytes) { file.Write(data, bytes); });
  file.Rename(path);
}

std::shared_ptr<const Container> Container::Open(const std::string& path, ContainerKind kind) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw System("open", path, errno);
  struct stat info;
  const bool known = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const auto size = known ? static_cast<size_t>(info.st_size) : 0;
  void* data = size == 0 ? MAP_FAILED : mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  const int error = errno;
  close(fd);
  if (!known) throw FileError("IO", "Cannot read " + path + ": it is no regular file.");
  if (size == 0) throw Corrupt(path + " is empty.");
  if (data == MAP_FAILED) throw System("map", path, error);
  std::shared_ptr<Container> container(new Container);
  container->data_ = static_cast<const uint8_t*>(data);
  container->bytes_ = size;
  container->mapped_ = true;
  container->Check(kind);
  return container;
}

std::shared_ptr<const Container> Container::Copy(const uint8_t* data, size_t bytes, ContainerKind kind) {
  std::shared_ptr<Container> container(new Container);
  container->copy_ = Buffer<uint8_t>(bytes);
  if (bytes > 0) std::memcpy(container->copy_.data(), data, bytes);
  container->data_ = container->copy_.data();
  container->bytes_ = bytes;
  container->Check(kind);
  return container;
}

Container::~Container() {
  if (mapped_) munmap(const_cast<uint8_t*>(data_), bytes_);
}

void Container::Check(ContainerKind kind) const {
  Header header;
  if (bytes_ < sizeof header) throw Corrupt("The file is shorter than a header.");
  std::memcpy(&header, data_, sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) throw Corrupt("This is no file of @magicpig/lsh.");
  if (header.header_crc != Crc32(0, &header, offsetof(Header, header_crc))) throw Corrupt("The file's header is damaged.");
  if (header.version != kVersion) {
    throw Corrupt("The file has format version " + std::to_string(header.version) + "; this release reads version " +
                  std::to_string(kVersion) + ".");
  }
  if (header.kind != kind.kind) {
    throw Corrupt("The file holds something else: " + Name(0, header.kind).substr(0, 4) + ", not " +
                  Name(0, kind.kind).substr(0, 4) + ".");
  }
  if (header.kind_version != kind.version) {
    throw Corrupt("The file's contents have version " + std::to_string(header.kind_version) + "; this release reads version " +
                  std::to_string(kind.version) + ".");
  }
  if (header.bytes != bytes_) {
    throw Corrupt("The file has " + std::to_string(bytes_) + " bytes and should have " + std::to_string(header.bytes) + ".");
  }
  for (const uint32_t zero : header.zero) {
    if (zero != 0) throw Corrupt("The file's header has unknown fields.");
  }
  if (header.sections > (bytes_ - sizeof header) / sizeof(Entry)) throw Corrupt("The file's section table does not fit.");
  const size_t table_bytes = header.sections * sizeof(Entry);
  if (header.table_crc != Crc32(0, data_ + sizeof header, table_bytes)) throw Corrupt("The file's section table is damaged.");

  const auto* table = reinterpret_cast<const Entry*>(data_ + sizeof header);
  size_t end = sizeof header + table_bytes;
  for (uint32_t s = 0; s < header.sections; ++s) {
    const Entry& entry = table[s];
    const bool ordered = s == 0 || Order(table[s - 1].index, table[s - 1].kind) < Order(entry.index, entry.kind);
    if (!ordered || entry.zero != 0 || entry.offset != Align(end) || entry.offset > bytes_ ||
        entry.bytes > bytes_ - entry.offset) {
      throw Corrupt("The file's section " + std::to_string(s) + " is out of place.");
    }
    end = entry.offset + entry.bytes;
  }
  if (end != bytes_) throw Corrupt("The file does not end with its last section.");
}

Container::Section Container::Find(uint32_t index, uint32_t kind) const {
  const auto* header = reinterpret_cast<const Header*>(data_);
  const auto* table = reinterpret_cast<const Entry*>(data_ + sizeof(Header));
  const auto* end = table + header->sections;
  const Entry* entry = std::lower_bound(table, end, Order(index, kind), [](const Entry& each, uint64_t order) {
    return Order(each.index, each.kind) < order;
  });
  if (entry == end || entry->index != index || entry->kind != kind) return {nullptr, 0};
  return {data_ + entry->offset, entry->bytes};
}

FileError Container::WrongSize(uint32_t index, uint32_t kind) {
  return Corrupt("The file's section " + Name(index, kind) + " has a wrong size.");
}

void Container::Verify(const magicpig_pool& pool) const {
  const auto* header = reinterpret_cast<const Header*>(data_);
  const auto* table = reinterpret_cast<const Entry*>(data_ + sizeof(Header));
  std::atomic<uint32_t> damaged{UINT32_MAX};
  ParallelFor(pool, header->sections, [&](uint32_t s, uint32_t) {
    const size_t before = s == 0 ? sizeof(Header) + header->sections * sizeof(Entry) : table[s - 1].offset + table[s - 1].bytes;
    const bool padded = std::all_of(data_ + before, data_ + table[s].offset, [](uint8_t byte) { return byte == 0; });
    if (!padded || Crc32(0, data_ + table[s].offset, table[s].bytes) != table[s].crc) damaged.store(s);
  });
  if (const uint32_t s = damaged.load(); s != UINT32_MAX) {
    throw Corrupt("The file's section " + Name(table[s].index, table[s].kind) + " is damaged.");
  }
}

}  // namespace magicpig::lsh
