// Files of sections: what goes in comes out, and no damage goes unseen.
#include "../container.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>

#include "../pool_handle.h"
#include "check.h"

using namespace magicpig::lsh;

namespace {

constexpr ContainerKind kKind{FourCc("TEST"), 3};
constexpr uint32_t kWords = FourCc("WORD"), kBytes = FourCc("BYTE");

std::vector<uint8_t> FileBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

void ContainerRefusesDamage() {
  CHECK(Crc32(0, "123456789", 9) == 0xCBF43926u);  // the published check value
  CHECK(Crc32(Crc32(0, "12345678901", 11), "23456789012345678901", 20) == Crc32(0, "1234567890123456789012345678901", 31));

  const PoolHandle pool = ProcessPool(2);
  std::vector<uint32_t> words(37);
  std::iota(words.begin(), words.end(), 5u);
  const uint8_t bytes[70] = {1, 2, 3};
  ContainerWriter writer(kKind);
  writer.Add(0, kWords, words.data(), 4 * 20);
  writer.Add(0, kWords, words.data() + 20, 4 * 17);
  writer.Add(0, FourCc("ZERO"), nullptr, 0);
  writer.Add(7, kBytes, bytes, sizeof bytes);
  std::vector<uint8_t> file(writer.bytes());
  writer.Write(*pool, file.data());

  const auto check = [&](const Container& container) {
    container.Verify(*pool);
    CHECK(std::memcmp(container.Get<uint32_t>(0, kWords, 37), words.data(), 4 * 37) == 0);
    CHECK(std::memcmp(container.Get<uint8_t>(7, kBytes, 70), bytes, 70) == 0);
    CHECK(reinterpret_cast<uintptr_t>(container.Get<uint8_t>(7, kBytes, 70)) % 64 == 0);
    container.Get<uint8_t>(0, FourCc("ZERO"), 0);
    container.Get<uint8_t>(1, kWords, 0);  // missing
    CHECK(FILE_ERROR(container.Get<uint32_t>(0, kWords, 36)) == "CORRUPT_FILE");
    CHECK(FILE_ERROR(container.Get<uint64_t>(7, kBytes, SIZE_MAX / 4)) == "CORRUPT_FILE");
    CHECK(FILE_ERROR(container.Get<uint8_t>(7, kWords, 1)) == "CORRUPT_FILE");
  };
  check(*Container::Copy(file.data(), file.size(), kKind));

  const std::string path = "/tmp/lsh-container-" + std::to_string(getpid());
  std::ofstream(path) << "an older file";
  writer.Save(*pool, path);
  CHECK(FileBytes(path) == file);
  const auto mapped = Container::Open(path, kKind);
  ContainerWriter other(kKind);
  other.Save(*pool, path);  // whoever has the old file open keeps it
  check(*mapped);
  CHECK(FileBytes(path).size() == 64);
  Container::Open(path, kKind)->Verify(*pool);
  std::ofstream(path, std::ios::trunc).close();
  CHECK(FILE_ERROR(Container::Open(path, kKind)) == "CORRUPT_FILE");
  unlink(path.c_str());
  CHECK(FILE_ERROR(Container::Open(path, kKind)) == "IO");
  CHECK(FILE_ERROR(Container::Open("/tmp", kKind)) == "IO");
  CHECK(FILE_ERROR(writer.Save(*pool, path + "/missing/folder")) == "IO");
  mkdir(path.c_str(), 0777);
  CHECK(FILE_ERROR(writer.Save(*pool, path)) == "IO");  // a folder cannot be replaced, and nothing is left beside it
  CHECK(rmdir(path.c_str()) == 0);

  CHECK(FILE_ERROR(Container::Copy(file.data(), file.size(), {kKind.kind, 4})) == "CORRUPT_FILE");
  CHECK(FILE_ERROR(Container::Copy(file.data(), file.size(), {kWords, 3})) == "CORRUPT_FILE");
  const auto open = [&](const uint8_t* data, size_t size) { Container::Copy(data, size, kKind)->Verify(*pool); };
  for (size_t size = 0; size < file.size(); ++size) CHECK(FILE_ERROR(open(file.data(), size)) == "CORRUPT_FILE");
  for (size_t at = 0; at < file.size(); ++at) {
    for (const int bit : {0, 3, 7}) {
      file[at] ^= 1 << bit;
      CHECK(FILE_ERROR(open(file.data(), file.size())) == "CORRUPT_FILE");
      file[at] ^= 1 << bit;
    }
  }
  file.push_back(0);
  CHECK(FILE_ERROR(open(file.data(), file.size())) == "CORRUPT_FILE");

  // Tables that lie although their checksums are right: each field of each entry set to something else.
  file.pop_back();
  for (size_t at = 64; at < 64 + 3 * 32; at += 4) {
    for (const uint32_t value : {0u, 1u, 63u, 0x7fffffffu, 0xffffffffu}) {
      std::vector<uint8_t> forged = file;
      if (std::memcmp(forged.data() + at, &value, 4) == 0) continue;
      std::memcpy(forged.data() + at, &value, 4);
      const uint32_t table = Crc32(0, forged.data() + 64, 3 * 32);
      std::memcpy(forged.data() + 32, &table, 4);
      const uint32_t header = Crc32(0, forged.data(), 60);
      std::memcpy(forged.data() + 60, &header, 4);
      // A section by another name is well formed, and then not found.
      const size_t field = (at - 64) % 32;
      const std::string code = FILE_ERROR(open(forged.data(), forged.size()));
      CHECK(code == "CORRUPT_FILE" || field < 8);
      CHECK(code != "none" || FILE_ERROR(check(*Container::Copy(forged.data(), forged.size(), kKind))) == "CORRUPT_FILE" ||
            std::memcmp(file.data() + at / 32 * 32 + 4, "ZERO", 4) == 0);
    }
  }
}
