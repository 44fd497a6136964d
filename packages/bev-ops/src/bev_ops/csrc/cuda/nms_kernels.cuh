// Rotated overlap and greedy suppression on the GPU.
//
// Suppression is two kernels for any number of groups: one fills a table of bits per group, row i telling which later
// candidates a kept i removes; the other walks the rows of a group in order, 64 at a time, in one block per group.
// Nothing returns to the host in between.
#pragma once

#include "../nms_rule.h"
#include "device.cuh"

namespace bev_ops {

constexpr int kWord = 64;  // candidates per word of the table; a block fills kWord rows of one word
constexpr int kTileThreads = 256;
constexpr int kGreedyThreads = 256;
constexpr int kPairThreads = 256;
constexpr int kMostRules = 64;  // of one launch: they travel with its arguments
constexpr unsigned kFullWarp = 0xffffffffu;

// Group g follows rule g % count.
template <typename T>
struct NmsRules {
  NmsRule<T> rules[kMostRules];
  int count;
};

// Which of kWord candidates are valid, in two halves: warp w of the block asks for half w.
__device__ inline unsigned valid_half(const bool* valid, int64_t candidate, int64_t count) {
  return __ballot_sync(kFullWarp, candidate < count && valid[candidate]);
}

// Pairs of a tile whose overlap must be computed: a list in any order, as its results are bits of their own.
struct PairList {
  unsigned short pairs[kWord * kWord];
  int length;

  // Called by whole warps.
  __device__ void append(bool wanted, int pair) {
    const unsigned votes = __ballot_sync(kFullWarp, wanted);
    if (votes == 0) {
      return;
    }
    const int lane = threadIdx.x % 32;
    const int first = __shfl_sync(kFullWarp, lane == 0 ? atomicAdd(&length, __popc(votes)) : 0, 0, 32);
    if (wanted) {
      pairs[first + __popc(votes & ((1u << lane) - 1u))] = static_cast<unsigned short>(pair);
    }
  }
};

// Grid (words, words, groups), kTileThreads threads. boxes: (groups, count, 5), valid: (groups, count),
// bits: (groups, count, words); words left of the diagonal and rows that are not valid need not be written.
// Most pairs are decided at a glance; the overlaps of the others are spread evenly over the threads.
template <typename T>
__global__ void __launch_bounds__(kTileThreads)
    fill_suppression(const T* boxes, const bool* valid, int64_t count, NmsRules<T> all_rules,
                     unsigned long long* bits) {
  __shared__ TurnedBox<T> rows[kWord], columns[kWord];
  __shared__ unsigned valid_rows[2], valid_columns[2];
  __shared__ unsigned removed[kWord * 2];  // the row's word, in two halves
  __shared__ PairList unsure;
  if (blockIdx.x < blockIdx.y) {
    return;
  }
  const NmsRule<T> rule = all_rules.rules[blockIdx.z % all_rules.count];
  const int64_t group = static_cast<int64_t>(blockIdx.z) * count;
  const int thread = threadIdx.x, lane = thread % 32;
  if (thread < 2 * kWord) {
    const bool is_row = thread < kWord;
    const int64_t candidate = static_cast<int64_t>(is_row ? blockIdx.y : blockIdx.x) * kWord + thread % kWord;
    const unsigned half = valid_half(valid + group, candidate, count);
    (is_row ? valid_rows : valid_columns)[thread % kWord / 32] = half;
    if (half >> lane & 1u) {
      (is_row ? rows : columns)[thread % kWord] = turned(box_at(boxes, group + candidate));
    }
  }
  if (thread == 0) {
    unsure.length = 0;
  }
  __syncthreads();
  if ((valid_rows[0] | valid_rows[1]) == 0) {
    return;
  }
  // A thread stays in its column, a warp looks at one row at a time.
  const int column = thread % kWord;
  const bool column_valid = valid_columns[column / 32] >> lane & 1u;
  const TurnedBox<T> worse = columns[column];
  for (int row = thread / kWord; row < kWord; row += kTileThreads / kWord) {
    const bool later = blockIdx.x > blockIdx.y || column > row;
    const bool asked = later && column_valid && (valid_rows[row / 32] >> row % 32 & 1u);
    const Verdict verdict = asked ? rule.at_a_glance(rows[row], worse) : Verdict::kStays;
    const unsigned gone = __ballot_sync(kFullWarp, verdict == Verdict::kGoes);
    if (lane == 0) {
      removed[row * 2 + column / 32] = gone;
    }
    unsure.append(verdict == Verdict::kUnsure, row * kWord + column);
  }
  __syncthreads();
  for (int i = thread; i < unsure.length; i += kTileThreads) {
    const int pair = unsure.pairs[i], row = pair / kWord, other = pair % kWord;
    if (rule.overlaps_too_much(rows[row], columns[other])) {
      atomicOr(&removed[row * 2 + other / 32], 1u << other % 32);
    }
  }
  __syncthreads();
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kWord + thread;
  if (thread < kWord && row < count) {
    bits[(group + row) * gridDim.x + blockIdx.x] =
        static_cast<unsigned long long>(removed[thread * 2 + 1]) << 32 | removed[thread * 2];
  }
}

// What one thread finds out for all: the candidates of a word that are kept.
struct Survivors {
  int rows[kWord];
  int count;
  long long more;  // candidates that may still be kept

  // removes: for each candidate of the word the later ones of the word that it removes.
  __device__ void choose(unsigned long long left, const unsigned long long* removes) {
    count = 0;
    while (left != 0 && more > 0) {
      const int row = __ffsll(static_cast<long long>(left)) - 1;
      rows[count++] = row;
      --more;
      left &= ~(removes[row] | 1ull << row);
    }
  }
};

// One block per group. Dynamic shared memory: one word per kWord candidates.
template <typename T>
__global__ void __launch_bounds__(kGreedyThreads)
    keep_greedily(const unsigned long long* bits, const bool* valid, int64_t count, int words, NmsRules<T> all_rules,
                  bool* keep) {
  __shared__ unsigned long long diagonal[kWord];
  __shared__ unsigned halves[2];
  __shared__ Survivors survivors;
  unsigned* removed = dynamic_shared<unsigned>();  // two halves per word
  const int64_t group = static_cast<int64_t>(blockIdx.x) * count;
  const int thread = threadIdx.x;
  for (int half = thread; half < 2 * words; half += kGreedyThreads) {
    removed[half] = 0;
  }
  for (int64_t row = thread; row < count; row += kGreedyThreads) {
    keep[group + row] = false;
  }
  if (thread == 0) {
    survivors.more = all_rules.rules[blockIdx.x % all_rules.count].most;
  }
  __syncthreads();
  for (int word = 0; word < words && survivors.more > 0; ++word) {
    const int64_t first = static_cast<int64_t>(word) * kWord;
    if (thread < kWord) {
      const unsigned half = valid_half(valid + group, first + thread, count);
      halves[thread / 32] = half;
      diagonal[thread] = half >> thread % 32 & 1u ? bits[(group + first + thread) * words + word] : 0;
    }
    __syncthreads();
    if (thread == 0) {
      const unsigned low = halves[0] & ~removed[word * 2], high = halves[1] & ~removed[word * 2 + 1];
      survivors.choose(static_cast<unsigned long long>(high) << 32 | low, diagonal);
    }
    __syncthreads();
    if (thread < survivors.count) {
      keep[group + first + survivors.rows[thread]] = true;
    }
    const int later = words - word - 1;
    for (int64_t i = thread; i < static_cast<int64_t>(survivors.count) * later; i += kGreedyThreads) {
      const int64_t row = group + first + survivors.rows[i / later], at = word + 1 + i % later;
      const unsigned long long gone = bits[row * words + at];
      atomicOr(&removed[at * 2], static_cast<unsigned>(gone));
      atomicOr(&removed[at * 2 + 1], static_cast<unsigned>(gone >> 32));
    }
    __syncthreads();
  }
}

template <typename T>
__global__ void __launch_bounds__(kPairThreads)
    fill_iou(const T* boxes_a, const T* boxes_b, int64_t rows, int64_t columns, T* iou) {
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kPairThreads + threadIdx.x;
  if (pair < rows * columns) {
    iou[pair] = rotated_iou(turned(box_at(boxes_a, pair / columns)), turned(box_at(boxes_b, pair % columns)));
  }
}

}  // namespace bev_ops
