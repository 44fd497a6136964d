// Votes of a warp and atomic operations, for cuda_emulator.h.
#pragma once

#include "cuda_emulator.h"

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const unsigned thread = emulator::running, lane = thread % 32;
  emulator::exchange(mask, static_cast<unsigned>(vote), lane);
  unsigned votes = 0;
  for (unsigned other = 0; other < 32; ++other) {
    if (mask >> other & 1u) {
      const emulator::Fiber& fiber = emulator::fibers[thread - lane + other];
      // The slot of this vote: a lane that has gone on stands one exchange ahead at most.
      unsigned cast;
      std::memcpy(&cast, &fiber.shuffle_slot[emulator::fibers[thread].shuffle_parity], sizeof(cast));
      votes |= (cast & 1u) << other;
    }
  }
  return votes;
}

inline void __syncwarp() { emulator::exchange(0xffffffffu, 0, static_cast<int>(emulator::running % 32)); }

// Threads switch only where they wait, so that every operation between is atomic.
inline int atomicAdd(int* target, int value) {
  const int before = *target;
  *target += value;
  return before;
}

inline unsigned atomicOr(unsigned* target, unsigned value) {
  const unsigned before = *target;
  *target |= value;
  return before;
}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
