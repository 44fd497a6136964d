// Stands in for the tensor cores of matrix.cuh, for cuda_votes.h: lanes hold the numbers that mma.m16n8k16 gives them.
#pragma once

#include "cuda_votes.h"

namespace emulator {

constexpr unsigned kWholeWarp = 0xffffffffu;

// Number `index` of the two that share 32 bits.
template <typename T, typename Bits>
T half_of(Bits bits, int index) {
  T value;
  std::memcpy(&value, reinterpret_cast<const char*>(&bits) + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace emulator

namespace bev_ops {

inline void load_right_parts(unsigned (&parts)[4], const void* numbers) {
  if (reinterpret_cast<uintptr_t>(numbers) % 16 != 0) {
    emulator::fault = "a row of a matrix is not aligned";
  }
  const int lane = threadIdx.x % 32, pair = lane % 4 * 2, column = lane / 4;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t both[2];
    for (int i = 0; i < 2; ++i) {
      const void* row = emulator::exchange(emulator::kWholeWarp, numbers, matrix * 8 + pair + i);
      both[i] = static_cast<const uint16_t*>(row)[column];
    }
    std::memcpy(&parts[matrix], both, sizeof(both));
  }
}

template <typename T>
void multiply_add(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
  const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2;
  const auto both = [](unsigned low, unsigned high) { return uint64_t{high} << 32 | low; };
  const uint64_t own[3] = {both(left[0], left[2]), both(left[1], left[3]), both(right0, right1)};
  for (int quarter = 0; quarter < 4; ++quarter) {
    uint64_t rows[2], columns[2];
    for (int i = 0; i < 2; ++i) {
      rows[i] = emulator::exchange(emulator::kWholeWarp, own[i], group * 4 + quarter);
      columns[i] = emulator::exchange(emulator::kWholeWarp, own[2], (pair + i) * 4 + quarter);
    }
    for (int k = 0; k < 4; ++k) {
      for (int i = 0; i < 4; ++i) {
        sums[i] += static_cast<float>(emulator::half_of<T>(rows[i / 2], k)) *
                   static_cast<float>(emulator::half_of<T>(columns[i % 2], k));
      }
    }
  }
}

}  // namespace bev_ops
