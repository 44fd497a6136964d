// Rotated overlap and greedy suppression on the GPU.
//
// Suppression is two kernels: one fills a table of bits, row i telling which later candidates a kept i removes; the
// other walks the rows in order, 64 at a time, in a single block. Nothing returns to the host in between.
#pragma once

#include "../rotated_box.h"
#include "device.cuh"

namespace bev_ops {

constexpr int kWord = 64;  // candidates per word of the table, and threads per block that fills it
constexpr int kGreedyThreads = 512;
constexpr int kPairThreads = 256;

template <typename T>
struct RotatedTest {
  static constexpr int kNumbers = 5;  // per candidate
  T threshold;

  __device__ bool operator()(const T* better, const T* worse) const {
    return rotated_iou(box_at(better, 0), box_at(worse, 0)) > threshold;
  }
};

template <typename T>
struct CircleTest {
  static constexpr int kNumbers = 2;
  double radius;

  __device__ bool operator()(const T* better, const T* worse) const {
    const T dx = better[0] - worse[0], dy = better[1] - worse[1];
    return static_cast<double>(dx * dx + dy * dy) <= radius;
  }
};

// Grid (words, words), kWord threads. bits: (count, words); words left of the diagonal are neither written nor read.
template <typename T, typename Test>
__global__ void fill_suppression(const T* candidates, int64_t count, Test test, unsigned long long* bits) {
  __shared__ T columns[kWord * Test::kNumbers];
  if (blockIdx.x < blockIdx.y) {
    return;
  }
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kWord;
  const int width = static_cast<int>(count - first < kWord ? count - first : kWord);
  for (int i = threadIdx.x; i < width * Test::kNumbers; i += kWord) {
    columns[i] = candidates[first * Test::kNumbers + i];
  }
  __syncthreads();
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kWord + threadIdx.x;
  if (row < count) {
    unsigned long long word = 0;
    for (int i = row < first ? 0 : static_cast<int>(row - first) + 1; i < width; ++i) {
      if (test(candidates + row * Test::kNumbers, columns + i * Test::kNumbers)) {
        word |= 1ull << i;
      }
    }
    bits[row * gridDim.x + blockIdx.x] = word;
  }
}

// One block. Dynamic shared memory: one word per kWord candidates.
inline __global__ void __launch_bounds__(kGreedyThreads)
    keep_greedily(const unsigned long long* bits, int64_t count, int words, bool* keep) {
  __shared__ unsigned long long diagonal[kWord];
  __shared__ unsigned long long kept;
  unsigned long long* removed = dynamic_shared<unsigned long long>();
  for (int word = threadIdx.x; word < words; word += kGreedyThreads) {
    removed[word] = 0;
  }
  for (int word = 0; word < words; ++word) {
    const int64_t row = static_cast<int64_t>(word) * kWord + threadIdx.x;
    const bool mine = threadIdx.x < kWord && row < count;
    if (threadIdx.x < kWord) {
      diagonal[threadIdx.x] = mine ? bits[row * words + word] : 0;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long gone = removed[word], survivors = 0;
      for (int i = 0; i < kWord && static_cast<int64_t>(word) * kWord + i < count; ++i) {
        if (!(gone >> i & 1ull)) {
          survivors |= 1ull << i;
          gone |= diagonal[i];
        }
      }
      kept = survivors;
    }
    __syncthreads();
    if (mine) {
      keep[row] = kept >> threadIdx.x & 1ull;
    }
    for (int later = word + 1 + threadIdx.x; later < words; later += kGreedyThreads) {
      unsigned long long gone = removed[later];
      for (unsigned long long rest = kept; rest != 0; rest &= rest - 1) {
        const int64_t survivor = static_cast<int64_t>(word) * kWord + __ffsll(static_cast<long long>(rest)) - 1;
        gone |= bits[survivor * words + later];
      }
      removed[later] = gone;
    }
    __syncthreads();
  }
}

template <typename T>
__global__ void __launch_bounds__(kPairThreads)
    fill_iou(const T* boxes_a, const T* boxes_b, int64_t rows, int64_t columns, T* iou) {
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kPairThreads + threadIdx.x;
  if (pair < rows * columns) {
    iou[pair] = rotated_iou(box_at(boxes_a, pair / columns), box_at(boxes_b, pair % columns));
  }
}

}  // namespace bev_ops
