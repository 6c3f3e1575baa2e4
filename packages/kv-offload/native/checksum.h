// XXH64 (github.com/Cyan4973/xxHash, specification 0.1.1), in pieces: fast enough to check a snapshot as it is read.
#ifndef MAGICPIG_KV_CHECKSUM_H_
#define MAGICPIG_KV_CHECKSUM_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace magicpig::kv {

class Checksum {
 public:
  void Add(const void* data, size_t bytes) {
    const auto* p = static_cast<const uint8_t*>(data);
    total_ += bytes;
    if (held_ + bytes < kStripe) {
      if (bytes != 0) std::memcpy(buffer_ + held_, p, bytes);
      held_ += bytes;
      return;
    }
    if (held_ > 0) {
      const size_t fill = kStripe - held_;
      std::memcpy(buffer_ + held_, p, fill);
      Stripe(buffer_);
      p += fill;
      bytes -= fill;
      held_ = 0;
    }
    for (; bytes >= kStripe; p += kStripe, bytes -= kStripe) Stripe(p);
    if (bytes != 0) std::memcpy(buffer_, p, bytes);
    held_ = bytes;
  }

  uint64_t Value() const {
    uint64_t hash = kPrime5;
    if (total_ >= kStripe) {
      hash = std::rotl(lane_[0], 1) + std::rotl(lane_[1], 7) + std::rotl(lane_[2], 12) + std::rotl(lane_[3], 18);
      for (const uint64_t lane : lane_) hash = (hash ^ Round(0, lane)) * kPrime1 + kPrime4;
    }
    hash += total_;
    const uint8_t* p = buffer_;
    size_t left = held_;
    for (; left >= 8; p += 8, left -= 8) hash = std::rotl(hash ^ Round(0, Read<uint64_t>(p)), 27) * kPrime1 + kPrime4;
    if (left >= 4) {
      hash = std::rotl(hash ^ (Read<uint32_t>(p) * kPrime1), 23) * kPrime2 + kPrime3;
      p += 4;
      left -= 4;
    }
    for (; left > 0; ++p, --left) hash = std::rotl(hash ^ (*p * kPrime5), 11) * kPrime1;
    hash = (hash ^ (hash >> 33)) * kPrime2;
    hash = (hash ^ (hash >> 29)) * kPrime3;
    return hash ^ (hash >> 32);
  }

 private:
  static constexpr size_t kStripe = 32;
  static constexpr uint64_t kPrime1 = 0x9e3779b185ebca87ull, kPrime2 = 0xc2b2ae3d27d4eb4full,
                            kPrime3 = 0x165667b19e3779f9ull, kPrime4 = 0x85ebca77c2b2ae63ull,
                            kPrime5 = 0x27d4eb2f165667c5ull;

  template <typename T>
  static uint64_t Read(const uint8_t* p) {
    T word;
    std::memcpy(&word, p, sizeof word);
    return word;
  }
  static uint64_t Round(uint64_t lane, uint64_t word) { return std::rotl(lane + word * kPrime2, 31) * kPrime1; }
  void Stripe(const uint8_t* p) {
    for (int i = 0; i < 4; ++i) lane_[i] = Round(lane_[i], Read<uint64_t>(p + 8 * i));
  }

  uint64_t lane_[4] = {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
  uint8_t buffer_[kStripe];
  size_t held_ = 0;
  uint64_t total_ = 0;
};

}  // namespace magicpig::kv

#endif  // MAGICPIG_KV_CHECKSUM_H_
