#include "snapshot.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "checksum.h"
#include "magicpig/thread_pool.h"

#if !defined(_WIN32)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace magicpig::kv {

#if defined(_WIN32)

Status SaveSnapshot(const Sequence&, const std::vector<Attachment>&, const std::string&) {
  return Error{ErrorCode::kUnsupported, "Snapshots need a POSIX system."};
}
Status LoadSnapshot(const std::shared_ptr<Store>&, const std::string&, Snapshot&) {
  return Error{ErrorCode::kUnsupported, "Snapshots need a POSIX system."};
}

#else

namespace {

constexpr char kMagic[8] = {'M', 'P', 'I', 'G', 'K', 'V', 'S', '3'};
constexpr uint32_t kByteOrder = 0x01020304;
constexpr size_t kHeaderBytes = 4096;  // so that the pages can be mapped where they lie
constexpr size_t kAlignment = 64;      // of pages and attachments
// Bytes behind the header that have a checksum of their own, so that all threads can check a file together.
constexpr size_t kChunkBytes = size_t{4} << 20;

// The first bytes of a file; zeros follow up to kHeaderBytes, then the pages, the attachments, each at a multiple of
// kAlignment, and the directory of the attachments.
struct Header {
  char magic[8];
  uint32_t byte_order;
  uint32_t dtype;
  uint32_t layers;
  uint32_t kv_heads;
  uint32_t dim;
  uint32_t page_tokens;
  uint32_t length;  // tokens
  uint32_t attachments;
  uint64_t page_bytes;
  uint64_t directory;   // where it begins; it ends with the file
  uint64_t file_bytes;
  uint64_t checksum;    // XXH64 of the header with a zero here and of the checksums of the chunks behind it
};

// An entry of the directory; the name follows.
struct DirectoryEntry {
  uint64_t begin;  // from the start of the file
  uint64_t bytes;
  uint64_t name_bytes;
};

Error FileError(const char* action, const std::string& path) {
  return {ErrorCode::kFile, "Could not " + std::string(action) + " " + path + ": " + std::strerror(errno) + "."};
}

Error Corrupt(const std::string& path, const std::string& what) {
  return {ErrorCode::kCorruptFile, path + " " + what + "; save the sequence again."};
}

class File {
 public:
  File(const std::string& path, int flags) : descriptor_(open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  ~File() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool ok() const { return descriptor_ >= 0; }
  int descriptor() const { return descriptor_; }
  bool Sync() const { return fsync(descriptor_) == 0; }
  bool Write(const void* data, size_t bytes, uint64_t offset) const {
    const auto* p = static_cast<const uint8_t*>(data);
    while (bytes > 0) {
      const ssize_t written = pwrite(descriptor_, p, bytes, static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return false;
      p += written;
      bytes -= static_cast<size_t>(written);
      offset += static_cast<uint64_t>(written);
    }
    return true;
  }

 private:
  const int descriptor_;
};

// Appends behind the header and sums what it writes, a chunk at a time.
class Writer {
 public:
  explicit Writer(const File& file) : file_(file) {}

  bool Write(const void* data, size_t bytes) {
    const auto* p = static_cast<const uint8_t*>(data);
    while (bytes > 0) {
      const size_t part = std::min(bytes, kChunkBytes - in_chunk_);
      chunk_.Add(p, part);
      if (!file_.Write(p, part, offset_)) return false;
      p += part;
      bytes -= part;
      offset_ += part;
      in_chunk_ += part;
      if (in_chunk_ == kChunkBytes) EndChunk();
    }
    return true;
  }
  bool Align() {
    static constexpr uint8_t kZeros[kAlignment] = {};
    return Write(kZeros, (kAlignment - offset_ % kAlignment) % kAlignment);
  }
  uint64_t offset() const { return offset_; }
  const std::vector<uint64_t>& Sums() {
    if (in_chunk_ > 0) EndChunk();
    return sums_;
  }

 private:
  void EndChunk() {
    sums_.push_back(chunk_.Value());
    chunk_ = Checksum();
    in_chunk_ = 0;
  }

  const File& file_;
  uint64_t offset_ = kHeaderBytes;
  Checksum chunk_;
  size_t in_chunk_ = 0;
  std::vector<uint64_t> sums_;
};

Header HeaderOf(const Shape& shape, uint32_t length) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.byte_order = kByteOrder;
  header.dtype = static_cast<uint32_t>(shape.dtype);
  header.layers = shape.layers;
  header.kv_heads = shape.kv_heads;
  header.dim = shape.dim;
  header.page_tokens = shape.page_tokens;
  header.length = length;
  header.page_bytes = shape.page_bytes();
  return header;
}

uint64_t ChecksumOf(Header header, const std::vector<uint64_t>& sums) {
  header.checksum = 0;
  Checksum checksum;
  checksum.Add(&header, sizeof header);
  checksum.Add(sums.data(), sums.size() * sizeof(uint64_t));
  return checksum.Value();
}

// A page with zeros for the rows that the sequence does not use: they may hold what another sequence left there.
bool WritePage(const Shape& shape, const uint8_t* page, size_t tokens, Writer& writer) {
  if (tokens == shape.page_tokens) return writer.Write(page, shape.page_bytes());
  const std::vector<uint8_t> zeros(shape.block_bytes());
  const size_t used = tokens * shape.token_bytes();
  for (size_t offset = 0; offset < shape.page_bytes(); offset += shape.block_bytes()) {
    if (!writer.Write(page + offset, used) || !writer.Write(zeros.data(), shape.block_bytes() - used)) return false;
  }
  return true;
}

// Everything behind the header.
bool WriteBody(const Sequence& sequence, const std::vector<Attachment>& attachments, Writer& writer, Header& header) {
  const Shape& shape = sequence.store()->shape();
  size_t left = sequence.length();
  for (const uint8_t* page : sequence.bases()) {
    const size_t tokens = std::min<size_t>(left, shape.page_tokens);
    if (!WritePage(shape, page, tokens, writer)) return false;
    left -= tokens;
  }
  std::vector<DirectoryEntry> entries;
  for (const Attachment& attachment : attachments) {
    if (!writer.Align()) return false;
    entries.push_back({writer.offset(), attachment.bytes, attachment.name.size()});
    if (!writer.Write(attachment.data, attachment.bytes)) return false;
  }
  header.directory = writer.offset();
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!writer.Write(&entries[i], sizeof entries[i])) return false;
    if (!writer.Write(attachments[i].name.data(), attachments[i].name.size())) return false;
  }
  header.file_bytes = writer.offset();
  return true;
}

bool WriteAll(const Sequence& sequence, const std::vector<Attachment>& attachments, const File& file) {
  Header header = HeaderOf(sequence.store()->shape(), sequence.length());
  header.attachments = static_cast<uint32_t>(attachments.size());
  Writer writer(file);
  if (!WriteBody(sequence, attachments, writer, header)) return false;
  header.checksum = ChecksumOf(header, writer.Sums());
  uint8_t bytes[kHeaderBytes] = {};
  std::memcpy(bytes, &header, sizeof header);
  return file.Write(bytes, kHeaderBytes, 0) && file.Sync();
}

// The attachments that the directory of a whole file lists. False when they do not lie in it.
bool ReadDirectory(const FileMapping& mapping, const Header& header, uint64_t begin, std::vector<Attachment>& attachments) {
  const uint8_t* file = mapping.data();
  uint64_t at = header.directory;
  if (at < begin || at > mapping.bytes()) return false;
  for (uint32_t i = 0; i < header.attachments; ++i) {
    DirectoryEntry entry;
    if (mapping.bytes() - at < sizeof entry) return false;
    std::memcpy(&entry, file + at, sizeof entry);
    at += sizeof entry;
    if (mapping.bytes() - at < entry.name_bytes) return false;
    if (entry.begin < begin || entry.begin > header.directory || entry.bytes > header.directory - entry.begin) return false;
    attachments.push_back({std::string(reinterpret_cast<const char*>(file + at), entry.name_bytes), file + entry.begin,
                           entry.bytes});
    at += entry.name_bytes;
  }
  return at == mapping.bytes();
}

// On all threads: a file of many gigabytes is checked as fast as it is read.
std::vector<uint64_t> SumChunks(const FileMapping& mapping, const magicpig_pool& pool) {
  const size_t bytes = mapping.bytes() - kHeaderBytes;
  std::vector<uint64_t> sums((bytes + kChunkBytes - 1) / kChunkBytes);
  ParallelFor(pool, static_cast<uint32_t>(sums.size()), [&](uint32_t chunk, uint32_t) {
    const size_t begin = chunk * kChunkBytes;
    Checksum checksum;
    checksum.Add(mapping.data() + kHeaderBytes + begin, std::min(kChunkBytes, bytes - begin));
    sums[chunk] = checksum.Value();
  });
  return sums;
}

}  // namespace

Status SaveSnapshot(const Sequence& sequence, const std::vector<Attachment>& attachments, const std::string& path) {
  // Beside the old file, so that the rename stays within one file system; numbered, so that two saves to one path in one
  // process do not meet.
  static std::atomic<uint32_t> number{0};
  const std::string temporary =
      path + ".tmp-" + std::to_string(getpid()) + "-" + std::to_string(number.fetch_add(1));
  {
    const File file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (!file.ok()) return FileError("create", temporary);
    if (!WriteAll(sequence, attachments, file)) {
      const Error error = FileError("write", temporary);
      unlink(temporary.c_str());
      return error;
    }
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    const Error error = FileError("replace", path);
    unlink(temporary.c_str());
    return error;
  }
  // The new name itself must survive a crash too.
  const size_t slash = path.rfind('/');
  const File folder(slash == std::string::npos ? "." : path.substr(0, slash + 1), O_RDONLY);
  if (!folder.ok() || !folder.Sync()) return FileError("sync the folder of", path);
  return std::nullopt;
}

Status LoadSnapshot(const std::shared_ptr<Store>& store, const std::string& path, Snapshot& snapshot) {
  const Shape& shape = store->shape();
  const File file(path, O_RDONLY);
  if (!file.ok()) return FileError("open", path);
  struct stat status;
  if (fstat(file.descriptor(), &status) != 0) return FileError("read", path);
  const auto bytes = static_cast<uint64_t>(status.st_size);
  if (bytes < kHeaderBytes) return Corrupt(path, "is no snapshot, or truncated");
  auto mapping = std::make_shared<FileMapping>(file.descriptor(), bytes);
  if (mapping->data() == nullptr) return FileError("map", path);

  Header header;
  std::memcpy(&header, mapping->data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return Corrupt(path, "is no snapshot of this version");
  if (header.byte_order != kByteOrder) return Corrupt(path, "was written with another byte order");
  const Header expected = HeaderOf(shape, header.length);
  if (std::memcmp(&expected, &header, offsetof(Header, length)) != 0 || expected.page_bytes != header.page_bytes) {
    return Error{ErrorCode::kInvalidArgument,
                 path + " holds " + std::to_string(header.layers) + " layers, " + std::to_string(header.kv_heads) +
                     " KV heads, head dimension " + std::to_string(header.dim) + ", pages of " +
                     std::to_string(header.page_tokens) + " tokens, element type " + std::to_string(header.dtype) +
                     "; load it into a store of that shape."};
  }
  const uint64_t pages = (uint64_t{header.length} + shape.page_tokens - 1) / shape.page_tokens;
  // Bounded one by one, so that no product can overflow on a damaged header.
  if (header.file_bytes != bytes || header.length > INT32_MAX || pages > (bytes - kHeaderBytes) / shape.page_bytes()) {
    return Corrupt(path, "is truncated or damaged: its size does not match its header");
  }
  if (ChecksumOf(header, SumChunks(*mapping, store->pool())) != header.checksum ||
      std::any_of(mapping->data() + sizeof header, mapping->data() + kHeaderBytes, [](uint8_t x) { return x != 0; })) {
    return Corrupt(path, "is damaged: its checksum does not match");
  }
  snapshot.attachments.clear();
  if (!ReadDirectory(*mapping, header, kHeaderBytes + pages * shape.page_bytes(), snapshot.attachments)) {
    return Corrupt(path, "is damaged: its attachments do not lie in it");
  }
  snapshot.mapping = mapping;
  return store->Adopt(std::move(mapping), kHeaderBytes, static_cast<uint32_t>(pages), header.length, snapshot.sequence);
}

#endif

}  // namespace magicpig::kv
