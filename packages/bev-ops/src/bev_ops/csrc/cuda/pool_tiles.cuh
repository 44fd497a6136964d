// Lift-splat pooling on the GPU, forward, second step: which entries a block of sum_cells adds, and how its slots of
// lanes share them. See pool_runs.cuh.
#pragma once

#include "pool_runs.cuh"

namespace bev_ops {

constexpr int kLongBlocks = 264;  // for long cells, at most
constexpr int kMaxCells = 64;     // of a block of sum_cells
constexpr int32_t kNoEntry = INT32_MIN;

template <typename T>
constexpr int kCellStep = 32 / static_cast<int>(sizeof(T));  // cells whose values of one channel are 32 bytes

// Cells of a block of sum_cells: no more than it has slots, in whole pieces of 32 bytes of output if there are so many.
template <typename T>
__host__ __device__ int cells_of_block(const RowShape& shape) {
  const int slots = kWarps * shape.slots;
  return slots < kCellStep<T> ? slots : slots / kCellStep<T> * kCellStep<T>;
}

// Inputs of one sample, by the numbers that the plan gives to runs and points.
template <typename T>
struct SampleView {
  const SumOf<T>* runs;
  const T* depth;
  const T* context;
  int64_t plan_sample;

  __device__ SampleView(const ForwardArgs<T>& args, int64_t sample) {
    const int64_t uncounted = args.uncounted(sample), cameras = uncounted * args.cameras;
    const int64_t pixels = static_cast<int64_t>(args.height) * args.width;
    plan_sample = sample - uncounted;
    runs = args.runs + (cameras - args.first_sample * args.cameras) * args.bins * args.width * args.stride;
    depth = args.depth + cameras * args.bins * pixels;
    context = args.context + cameras * pixels * args.stride;
  }
};

// Neighbouring cells of one sample.
struct CellTile {
  int sample, first;  // of the sample's cells
  int count;
};

template <typename T>
__device__ CellTile cell_tile(const ForwardArgs<T>& args, unsigned block) {
  const int most = cells_of_block<T>(args.shape);
  const unsigned sample = args.tiles_of_sample.divide(block);
  const int first = static_cast<int>(block - sample * args.tiles_of_sample.value) * most;
  const int left = static_cast<int>(args.cells_per_sample) - first;
  return {static_cast<int>(args.first_sample + sample), first, left < most ? left : most};
}

// Where the entries of a cell stand in the plan's list: its runs, and its points outside of runs.
struct CellEntries {
  int runs = 0, runs_end = 0, points = 0, points_end = 0;

  CellEntries() = default;
  template <typename T>
  __device__ CellEntries(const ForwardArgs<T>& args, int64_t cell)
      : runs(args.entry_start[cell]), runs_end(args.entry_start[cell + 1]),
        points(args.entry_start[args.cells + cell]), points_end(args.entry_start[args.cells + cell + 1]) {}

  __device__ int count() const { return runs_end - runs + points_end - points; }
};

// The entries of a tile as one list, cell by cell, runs first, and how the slots of the block share it. A slot that
// goes on from one cell to the next begins another row of sums, as does the next slot within a cell: rows are numbered by
// slot + cell, and those of a cell stand in one piece.
template <typename T>
struct TileList {
  alignas(32) int rows[kMaxCells];  // of sums: the first, and 65536 times their number; -1: another block's cell
  int begin[kMaxCells + 1];         // of a cell's entries in the list
  int points[kMaxCells];            // where its single points begin there
  int run_shift[kMaxCells], point_shift[kMaxCells];  // from places in the list to places in the plan's
  int share;

  __device__ int total() const { return begin[kMaxCells]; }

  __device__ int cell_at(int place, int cells) const {
    int low = 0, high = cells;
#pragma unroll 1
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (begin[middle] <= place ? low : high) = middle;
    }
    return low;
  }

  // The number of a run; the complement of the number of a point.
  __device__ int32_t entry(const ForwardArgs<T>& args, int cell, int place) const {
    return place < points[cell] ? args.entries[run_shift[cell] + place] : ~args.entries[point_shift[cell] + place];
  }
};

// The number before this lane's if the numbers of the lanes before it are added up. All lanes of the warp take part.
__device__ inline int sum_before(int value) {
  const int lane = threadIdx.x % kWarp;
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const int other = __shfl_sync(kAllLanes, sum, (lane + kWarp - distance) % kWarp, kWarp);
    sum += lane >= distance ? other : 0;
  }
  return sum - value;
}

__device__ inline bool is_long_block(int long_blocks) { return blockIdx.x < static_cast<unsigned>(long_blocks); }

// What a block of sum_cells works at: one tile of neighbouring cells, or cells of the list of long ones, one by one. No
// cells: there is nothing left.
template <typename T>
__device__ CellTile next_tile(const ForwardArgs<T>& args, int& turn) {
  if (!is_long_block(args.long_blocks)) {
    return cell_tile(args, blockIdx.x - args.long_blocks);
  }
  const int64_t copies = args.one_plan ? args.samples : 1;
  for (;; ++turn) {
    const int64_t item = blockIdx.x + static_cast<int64_t>(turn) * args.long_blocks;
    const int64_t cell = item < args.long_slots * copies ? args.long_cells[item / copies] : -1;
    if (cell < 0) {
      return {0, 0, 0};
    }
    const int64_t sample = args.one_plan ? args.first_sample + item % copies : cell / args.cells_per_sample;
    if (sample >= args.first_sample && sample < args.first_sample + args.samples) {
      return {static_cast<int>(sample), static_cast<int>(cell % args.cells_per_sample), 1};
    }
  }
}

// By the first warp of a block. Cells with more entries than `most` are left out.
template <typename T>
__device__ void list_tile(const ForwardArgs<T>& args, const CellTile& tile, int64_t plan_cell, TileList<T>& list) {
  constexpr int kRounds = kMaxCells / kWarp;
  const int lane = threadIdx.x % kWarp, most = is_long_block(args.long_blocks) ? INT32_MAX : args.long_cell;
  int begin[kRounds], count[kRounds], total = 0;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int cell = round * kWarp + lane;
    const CellEntries all = cell < tile.count ? CellEntries(args, plan_cell + cell) : CellEntries();
    const bool mine = cell < tile.count && all.count() <= most;
    count[round] = mine ? all.count() : 0;
    begin[round] = total + sum_before(count[round]);
    total = __shfl_sync(kAllLanes, begin[round] + count[round], kWarp - 1, kWarp);
    list.begin[cell] = begin[round];
    list.points[cell] = begin[round] + all.runs_end - all.runs;
    list.run_shift[cell] = all.runs - begin[round];
    list.point_shift[cell] = all.points - list.points[cell];
    list.rows[cell] = mine ? 0 : -1;
  }
  const int slots = kWarps * args.shape.slots, share = total > slots ? (total + slots - 1) / slots : 1;
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (count[round] > 0) {
      const int cell = round * kWarp + lane, first = begin[round] / share;
      list.rows[cell] = first + cell | ((begin[round] + count[round] - 1) / share - first + 1) << 16;
    }
  }
  if (lane == 0) {
    list.begin[kMaxCells] = total;
    list.share = share;
  }
}

}  // namespace bev_ops
