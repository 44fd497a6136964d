// Stands in for the CUDA runtime, so that the kernels' own source runs on a CPU: one fiber per thread, one block after
// the other. Threads switch only where they wait for each other, in an order the caller chooses; a missing
// __syncthreads shows as a result that depends on that order. Reports threads that wait for ever and misaligned loads.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct int2 {
  int x, y;
};

struct Index3 {
  unsigned x, y, z;
};

inline Index3 threadIdx, blockIdx, gridDim;

namespace emulator {

enum class Order { kForward, kBackward, kRandom };
enum class State { kReady, kAtBlockBarrier, kAtShuffle, kDone };

constexpr size_t kStackBytes = 128 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state;
  unsigned shuffle_mask;
  int shuffle_parity;
  uint64_t shuffle_slot[2];
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned running;
inline std::vector<unsigned char> shared_memory;
inline const std::function<void()>* kernel;
inline std::string fault;
inline Order order = Order::kForward;

inline void wait(State state) {
  Fiber& self = fibers[running];
  self.state = state;
  swapcontext(&self.context, &scheduler);
}

inline void enter() {
  (*kernel)();
  wait(State::kDone);
}

inline void start(unsigned thread) {
  Fiber& fiber = fibers[thread];
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  fiber.state = State::kReady;
  fiber.shuffle_parity = 0;
  makecontext(&fiber.context, enter, 0);
}

inline void run_ready(const std::vector<unsigned>& sequence) {
  for (unsigned thread : sequence) {
    if (fibers[thread].state == State::kReady) {
      running = thread;
      threadIdx = {thread, 0, 0};
      swapcontext(&scheduler, &fibers[thread].context);
    }
  }
}

// Releases the lanes of every shuffle that all lanes of its mask have reached.
inline bool release_shuffles() {
  bool released = false;
  for (size_t first = 0; first < fibers.size(); ++first) {
    if (fibers[first].state != State::kAtShuffle) {
      continue;
    }
    const unsigned mask = fibers[first].shuffle_mask;
    const size_t warp = first / 32 * 32;
    bool complete = true;
    for (size_t lane = 0; lane < 32 && warp + lane < fibers.size(); ++lane) {
      const Fiber& other = fibers[warp + lane];
      complete &= !(mask >> lane & 1u) || (other.state == State::kAtShuffle && other.shuffle_mask == mask);
    }
    for (size_t lane = 0; complete && lane < 32 && warp + lane < fibers.size(); ++lane) {
      if (mask >> lane & 1u) {
        fibers[warp + lane].state = State::kReady;
        released = true;
      }
    }
  }
  return released;
}

inline bool release_barrier() {
  for (const Fiber& fiber : fibers) {
    if (fiber.state != State::kAtBlockBarrier) {
      return false;
    }
  }
  for (Fiber& fiber : fibers) {
    fiber.state = State::kReady;
  }
  return true;
}

inline bool all_done() {
  for (const Fiber& fiber : fibers) {
    if (fiber.state != State::kDone) {
      return false;
    }
  }
  return true;
}

inline void run_block(unsigned threads, std::mt19937& random) {
  std::vector<unsigned> sequence(threads);
  std::iota(sequence.begin(), sequence.end(), 0u);
  if (order == Order::kBackward) {
    std::reverse(sequence.begin(), sequence.end());
  }
  for (unsigned thread = 0; thread < threads; ++thread) {
    start(thread);
  }
  while (!all_done()) {
    if (order == Order::kRandom) {
      std::shuffle(sequence.begin(), sequence.end(), random);
    }
    run_ready(sequence);
    if (!release_shuffles() && !release_barrier() && !all_done()) {
      throw std::runtime_error("threads of a block wait for each other for ever");
    }
    if (!fault.empty()) {
      throw std::runtime_error(fault);
    }
  }
}

// Runs a kernel over a grid; the kernel sees threadIdx, blockIdx and gridDim.
inline void launch(Index3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
  if (shared_bytes > 48 * 1024) {
    throw std::runtime_error("a block asks for more shared memory than every GPU gives");
  }
  fibers.resize(threads);
  shared_memory.assign(shared_bytes + 16, 0xff);
  kernel = &body;
  gridDim = grid;
  fault.clear();
  std::mt19937 random(7);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(threads, random);
      }
    }
  }
}

template <typename V>
V exchange(unsigned mask, V value, unsigned from) {
  static_assert(sizeof(V) <= sizeof(uint64_t), "shuffles move up to eight bytes");
  Fiber& self = fibers[running];
  const unsigned thread = running;
  if (!(mask >> (thread % 32) & 1u)) {
    fault = "a thread shuffles with a mask that leaves it out";
  }
  // Two slots: a lane can be at most one shuffle ahead of the others.
  const int parity = self.shuffle_parity ^= 1;
  std::memcpy(&self.shuffle_slot[parity], &value, sizeof(V));
  self.shuffle_mask = mask;
  wait(State::kAtShuffle);
  if (!(mask >> from & 1u)) {
    fault = "a thread reads a lane outside its mask";
  }
  V result;
  std::memcpy(&result, &fibers[thread / 32 * 32 + from].shuffle_slot[parity], sizeof(V));
  return result;
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::State::kAtBlockBarrier); }

template <typename V>
V __shfl_sync(unsigned mask, V value, int from, int width) {
  return emulator::exchange(mask, value, threadIdx.x % 32 / width * width + from % width);
}

template <typename V>
V __shfl_xor_sync(unsigned mask, V value, int distance, int width) {
  static_cast<void>(width);
  return emulator::exchange(mask, value, threadIdx.x % 32 ^ distance);
}

template <typename V>
V __shfl_down_sync(unsigned mask, V value, int distance, int width) {
  const int lane = threadIdx.x % 32;
  return emulator::exchange(mask, value, lane % width + distance < width ? lane + distance : lane);
}

inline uint4 __ldg(const uint4* source) {
  if (reinterpret_cast<uintptr_t>(source) % 16 != 0) {
    emulator::fault = "a 16-byte load is not aligned";
  }
  uint4 value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

inline void __pipeline_memcpy_async(void* target, const void* source, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(source) % bytes != 0 || reinterpret_cast<uintptr_t>(target) % bytes != 0) {
    emulator::fault = "a copy to shared memory is not aligned";
  }
  std::memcpy(target, source, bytes);
}

inline void __pipeline_commit() {}

inline void __pipeline_wait_prior(int) {}

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }

inline int __ffsll(long long value) { return __builtin_ffsll(value); }

namespace bev_ops {

template <typename T>
T* dynamic_shared() {
  const auto address = (reinterpret_cast<uintptr_t>(emulator::shared_memory.data()) + 15) / 16 * 16;
  return reinterpret_cast<T*>(address);
}

}  // namespace bev_ops
