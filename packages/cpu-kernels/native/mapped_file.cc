#include "mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace magicpig::cpu {
namespace {

const char* ErrorName(int error) {
  switch (error) {
    case ENOENT: return "ENOENT";
    case ENOTDIR: return "ENOTDIR";
    case EACCES: return "EACCES";
    case EPERM: return "EPERM";
    case EISDIR: return "EISDIR";
    case EMFILE: return "EMFILE";
    case ENFILE: return "ENFILE";
    case ENOMEM: return "ENOMEM";
    case ENODEV: return "ENODEV";
    case ELOOP: return "ELOOP";
    case ENAMETOOLONG: return "ENAMETOOLONG";
    default: return "EIO";
  }
}

}  // namespace

const char* MappedFile::Map(const char* path) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return ErrorName(errno);
  const char* error = nullptr;
  struct stat status;
  if (fstat(file, &status) != 0) {
    error = ErrorName(errno);
  } else if (S_ISDIR(status.st_mode)) {
    error = "EISDIR";
  } else if (status.st_size == 0) {
    error = "EMPTY";
  } else {
    void* data = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED) {
      error = ErrorName(errno);
    } else {
      data_ = static_cast<uint8_t*>(data);
      size_ = static_cast<size_t>(status.st_size);
    }
  }
  close(file);  // the mapping keeps the file
  return error;
}

void MappedFile::Trim() const {
  if (data_) madvise(data_, size_, MADV_DONTNEED);
}

void MappedFile::Unmap() {
  if (data_) munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

}  // namespace magicpig::cpu
