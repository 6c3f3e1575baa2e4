#include "snapshot.h"

#include <cerrno>
#include <cstring>

#include "checksum.h"

#if !defined(_WIN32)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace magicpig::kv {

#if defined(_WIN32)

Status SaveSnapshot(const Sequence&, const uint8_t*, size_t, const std::string&) {
  return Error{ErrorCode::kUnsupported, "Snapshots need a POSIX system."};
}
Status LoadSnapshot(const std::shared_ptr<Store>&, const std::string&, std::shared_ptr<Sequence>&,
                    std::vector<uint8_t>&) {
  return Error{ErrorCode::kUnsupported, "Snapshots need a POSIX system."};
}

#else

namespace {

constexpr char kMagic[8] = {'M', 'P', 'I', 'G', 'K', 'V', 'S', '1'};
constexpr uint32_t kByteOrder = 0x01020304;
constexpr size_t kHeaderBytes = 4096;  // so that the pages can be mapped where they lie

// The first bytes of a file; zeros follow up to kHeaderBytes, then the pages, then the attachment.
struct Header {
  char magic[8];
  uint32_t byte_order;
  uint32_t dtype;
  uint32_t layers;
  uint32_t kv_heads;
  uint32_t dim;
  uint32_t page_tokens;
  uint32_t length;  // tokens
  uint32_t reserved;
  uint64_t page_bytes;
  uint64_t attachment_bytes;
  uint64_t checksum;  // XXH64 of the header with a zero here, the pages and the attachment
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
  bool Write(const void* data, size_t bytes) const {
    const auto* p = static_cast<const uint8_t*>(data);
    while (bytes > 0) {
      const ssize_t written = write(descriptor_, p, bytes);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return false;
      p += written;
      bytes -= static_cast<size_t>(written);
    }
    return true;
  }
  bool Sync() const { return fsync(descriptor_) == 0; }

 private:
  const int descriptor_;
};

Header HeaderOf(const Shape& shape, uint32_t length, size_t attachment_bytes) {
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
  header.attachment_bytes = attachment_bytes;
  return header;
}

// Calls write(data, bytes) for the pieces of a page in order, with zeros for the rows that the sequence does not use: they
// may hold what another sequence left there.
template <typename Write>
bool WritePage(const Shape& shape, const uint8_t* page, uint32_t tokens, Write write) {
  if (tokens == shape.page_tokens) return write(page, shape.page_bytes());
  const std::vector<uint8_t> zeros(shape.block_bytes());
  const size_t used = size_t{tokens} * shape.row_bytes();
  for (size_t offset = 0; offset < shape.page_bytes(); offset += shape.block_bytes()) {
    if (!write(page + offset, used) || !write(zeros.data(), shape.block_bytes() - used)) return false;
  }
  return true;
}

}  // namespace

Status SaveSnapshot(const Sequence& sequence, const uint8_t* attachment, size_t attachment_bytes,
                    const std::string& path) {
  const Shape& shape = sequence.store()->shape();
  const std::vector<const uint8_t*>& pages = sequence.bases();
  const auto for_each_piece = [&](auto write) {
    for (size_t i = 0; i < pages.size(); ++i) {
      const size_t left = sequence.length() - i * shape.page_tokens;
      const auto tokens = static_cast<uint32_t>(left < shape.page_tokens ? left : shape.page_tokens);
      if (!WritePage(shape, pages[i], tokens, write)) return false;
    }
    return write(attachment, attachment_bytes);
  };

  uint8_t header_bytes[kHeaderBytes] = {};
  Header header = HeaderOf(shape, sequence.length(), attachment_bytes);
  Checksum checksum;
  std::memcpy(header_bytes, &header, sizeof header);
  checksum.Add(header_bytes, kHeaderBytes);
  for_each_piece([&](const uint8_t* data, size_t bytes) {
    checksum.Add(data, bytes);
    return true;
  });
  header.checksum = checksum.Value();
  std::memcpy(header_bytes, &header, sizeof header);

  // Beside the old file, so that the rename stays within one file system.
  const std::string temporary = path + ".tmp-" + std::to_string(getpid());
  {
    const File file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    if (!file.ok()) return FileError("create", temporary);
    const bool written = file.Write(header_bytes, kHeaderBytes) &&
                         for_each_piece([&](const uint8_t* data, size_t bytes) { return file.Write(data, bytes); }) &&
                         file.Sync();
    if (!written) {
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

Status LoadSnapshot(const std::shared_ptr<Store>& store, const std::string& path, std::shared_ptr<Sequence>& sequence,
                    std::vector<uint8_t>& attachment) {
  const Shape& shape = store->shape();
  const File file(path, O_RDONLY);
  if (!file.ok()) return FileError("open", path);
  struct stat status;
  if (fstat(file.descriptor(), &status) != 0) return FileError("read", path);
  const auto bytes = static_cast<uint64_t>(status.st_size);
  if (bytes < kHeaderBytes) return Corrupt(path, "is no snapshot, or truncated");
  auto mapping = std::make_unique<FileMapping>(file.descriptor(), bytes);
  if (mapping->data() == nullptr) return FileError("map", path);

  Header header;
  std::memcpy(&header, mapping->data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return Corrupt(path, "is no snapshot of this version");
  if (header.byte_order != kByteOrder) return Corrupt(path, "was written with another byte order");
  Header expected = HeaderOf(shape, header.length, header.attachment_bytes);
  expected.checksum = header.checksum;
  if (std::memcmp(&expected, &header, sizeof header) != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 path + " holds " + std::to_string(header.layers) + " layers, " + std::to_string(header.kv_heads) +
                     " KV heads, head dimension " + std::to_string(header.dim) + ", pages of " +
                     std::to_string(header.page_tokens) + " tokens, element type " + std::to_string(header.dtype) +
                     "; load it into a store of that shape."};
  }
  const uint64_t pages = (uint64_t{header.length} + shape.page_tokens - 1) / shape.page_tokens;
  // Bounded one by one, so that no product can overflow on a damaged header.
  const uint64_t room = bytes - kHeaderBytes;
  if (header.length > INT32_MAX || pages > room / shape.page_bytes() ||
      header.attachment_bytes != room - pages * shape.page_bytes()) {
    return Corrupt(path, "is truncated or damaged: its size does not match its header");
  }
  uint8_t header_bytes[kHeaderBytes];
  std::memcpy(header_bytes, mapping->data(), kHeaderBytes);
  std::memset(header_bytes + offsetof(Header, checksum), 0, sizeof header.checksum);
  Checksum checksum;
  checksum.Add(header_bytes, kHeaderBytes);
  checksum.Add(mapping->data() + kHeaderBytes, room);
  if (checksum.Value() != header.checksum) return Corrupt(path, "is damaged: its checksum does not match");

  const uint8_t* behind = mapping->data() + kHeaderBytes + pages * shape.page_bytes();
  attachment.assign(behind, behind + header.attachment_bytes);
  return store->Adopt(std::move(mapping), kHeaderBytes, static_cast<uint32_t>(pages), header.length, sequence);
}

#endif

}  // namespace magicpig::kv
