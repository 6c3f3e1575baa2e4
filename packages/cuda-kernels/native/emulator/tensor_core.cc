#include "tensor_core.h"

#include <deque>
#include <map>
#include <vector>

#include "machine.h"

namespace magicpig {
namespace {

struct MmaOperands {
  uint32_t a[4], b[2], d[4];
};
static_assert(sizeof(MmaOperands) <= emulator::kMaxWarpValue);

MmaOperands operands_of(emulator::WarpSlots& slots, int lane) {
  MmaOperands operands;
  std::memcpy(&operands, slots.in[lane], sizeof operands);
  return operands;
}

void mma_bf16_warp(emulator::WarpSlots& slots, int) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaOperands in = operands_of(slots, lane);
    const int group = lane >> 2, member = lane & 3;
    for (int i = 0; i < 8; ++i) {  // a_i: two to a register, the lower-indexed in the lower half
      const int row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
      const int column = member * 2 + (i & 1) + (i < 4 ? 0 : 8);
      a[row][column] = std::bit_cast<float>((i & 1 ? in.a[i / 2] >> 16 : in.a[i / 2] & 0xffffu) << 16);
    }
    for (int i = 0; i < 4; ++i) {
      const int row = member * 2 + (i & 1) + (i < 2 ? 0 : 8);
      b[row][group] = std::bit_cast<float>((i & 1 ? in.b[i / 2] >> 16 : in.b[i / 2] & 0xffffu) << 16);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const MmaOperands in = operands_of(slots, lane);
    float d[4];
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8;
      const int column = (lane & 3) * 2 + (i & 1);
      float sum = std::bit_cast<float>(in.d[i]);
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      d[i] = sum;
    }
    std::memcpy(slots.out[lane], d, sizeof d);
  }
}

void mma_int8_warp(emulator::WarpSlots& slots, int a_signed) {
  int32_t a[16][32], b[32][8];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaOperands in = operands_of(slots, lane);
    const int group = lane >> 2, member = lane & 3;
    for (int i = 0; i < 16; ++i) {  // four to a register
      const int row = (i < 4 || (i >= 8 && i < 12)) ? group : group + 8;
      const int column = member * 4 + (i & 3) + (i < 8 ? 0 : 16);
      const auto byte = static_cast<uint8_t>(in.a[i / 4] >> (8 * (i & 3)));
      a[row][column] = a_signed ? static_cast<int8_t>(byte) : byte;
    }
    for (int i = 0; i < 8; ++i) {
      const int row = member * 4 + (i & 3) + (i < 4 ? 0 : 16);
      b[row][group] = static_cast<int8_t>(in.b[i / 4] >> (8 * (i & 3)));
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const MmaOperands in = operands_of(slots, lane);
    uint32_t d[4];
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? lane >> 2 : (lane >> 2) + 8;
      const int column = (lane & 3) * 2 + (i & 1);
      uint32_t sum = in.d[i];
      for (int k = 0; k < 32; ++k) sum += static_cast<uint32_t>(a[row][k] * b[k][column]);
      d[i] = sum;
    }
    std::memcpy(slots.out[lane], d, sizeof d);
  }
}

// The rows may have been written by other lanes, so that all 32 must have arrived before any is read.
void load_matrices_warp(emulator::WarpSlots& slots, int transposed) {
  const uint16_t* rows[32];
  for (int lane = 0; lane < 32; ++lane) {
    std::memcpy(&rows[lane], slots.in[lane], sizeof rows[lane]);
    if (reinterpret_cast<uintptr_t>(rows[lane]) % 16 != 0) emulator::die("ldmatrix needs rows that are aligned to 16 bytes");
    emulator::touch(emulator::Touch::kRead, rows[lane], 16, lane);
  }
  for (int lane = 0; lane < 32; ++lane) {
    uint32_t r[4];
    for (int matrix = 0; matrix < 4; ++matrix) {
      const uint16_t* const* row = rows + 8 * matrix;
      const int major = lane / 4, minor = lane % 4 * 2;
      const uint32_t low = transposed ? row[minor][major] : row[major][minor];
      const uint32_t high = transposed ? row[minor + 1][major] : row[major][minor + 1];
      r[matrix] = low | high << 16;
    }
    std::memcpy(slots.out[lane], r, sizeof r);
  }
}

struct Copy {
  void* to;
  const void* from;
};
void perform(const Copy& copy) {
  if (copy.from != nullptr) {
    std::memcpy(copy.to, copy.from, 16);
  } else {
    std::memset(copy.to, 0, 16);
  }
}
struct CopyGroups {
  uint32_t block = 0;  // which block of which launch they belong to
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> closed;
};
// Pending copies of each thread of the block that is running.
CopyGroups& copy_groups() {
  static std::map<unsigned, CopyGroups> groups;
  CopyGroups& own = groups[emulator::moment(-1).thread];
  if (own.block != emulator::now.block_began) own = CopyGroups{emulator::now.block_began, {}, {}};
  return own;
}

void product(void* d, const uint32_t (&a)[4], uint32_t b0, uint32_t b1, void (*body)(emulator::WarpSlots&, int), int argument,
             const emulator::Place& place) {
  MmaOperands in{{a[0], a[1], a[2], a[3]}, {b0, b1}, {}};
  std::memcpy(in.d, d, sizeof in.d);
  emulator::warp_collective(&in, sizeof in, d, sizeof in.d, body, argument, place);
}

}  // namespace

void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const emulator::Place& place) {
  product(d, a, b0, b1, mma_bf16_warp, 0, place);
}
void mma_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const emulator::Place& place) {
  product(d, a, b0, b1, mma_int8_warp, 1, place);
}
void mma_u8_s8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const emulator::Place& place) {
  product(d, a, b0, b1, mma_int8_warp, 0, place);
}
void load_matrices(uint32_t (&r)[4], const void* row, const emulator::Place& place) {
  emulator::warp_collective(&row, sizeof row, r, sizeof r, load_matrices_warp, 0, place);
}
void load_matrices_transposed(uint32_t (&r)[4], const void* row, const emulator::Place& place) {
  emulator::warp_collective(&row, sizeof row, r, sizeof r, load_matrices_warp, 1, place);
}

// The device may copy at any time between the start and the wait: what is touched in between is a race with one or the other.
void copy_async(void* shared, const void* global, bool valid) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0)) {
    emulator::die("cp.async needs 16-byte alignment");
  }
  if (valid) emulator::touch(emulator::Touch::kRead, global, 16);
  emulator::touch(emulator::Touch::kCopyStart, shared, 16);
  const Copy copy{shared, valid ? global : nullptr};
  if (emulator::current_order() == emulator::Order::kReverse) perform(copy);  // a tile that is overwritten too early shows then
  copy_groups().open.push_back(copy);
}
void commit_copies() {
  CopyGroups& groups = copy_groups();
  groups.closed.push_back(std::move(groups.open));
  groups.open.clear();
}
void wait_copies_until(size_t pending) {
  CopyGroups& groups = copy_groups();
  while (groups.closed.size() > pending) {
    for (const Copy& copy : groups.closed.front()) {
      emulator::touch(emulator::Touch::kCopyEnd, copy.to, 16);
      if (emulator::current_order() != emulator::Order::kReverse) perform(copy);
    }
    groups.closed.pop_front();
  }
}

}  // namespace magicpig
