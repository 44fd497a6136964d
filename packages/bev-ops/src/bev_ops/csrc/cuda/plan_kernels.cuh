// Building a plan on the GPU: the cell of every point, runs down image columns, and the list of entries by cell.
//
// The list comes from one stable radix sort of keys (cub), so that equal input gives equal lists; the keys of runs come
// before those of single points, and points inside a run or outside of the grid come last.
#pragma once

#include "rows.cuh"

namespace bev_ops {

struct PlanArgs {
  const float* points;  // (samples, cameras, bins, height, width, 3)
  int32_t* cell_of_point;
  int32_t* column_runs;    // (samples, cameras, bins, width)
  uint32_t* keys;          // of every column, then of every point, and their numbers
  int32_t* numbers;
  const uint32_t* sorted;  // keys in order
  int32_t* entry_start;    // (2 * cells + 1)
  int32_t* long_cells;
  int32_t* long_count;
  float lower[3], step[3], size[3];
  int64_t count, points_per_sample, columns;
  int64_t cells, cells_per_sample;
  int height, width, grid_width, grid_height;
  int min_run, long_cell, long_slots;
};

// Cell of every point, -1 where it is outside. Truncates toward zero: (-1, 0) belongs to index 0.
inline __global__ void __launch_bounds__(kThreads) find_cells(PlanArgs args) {
  const int64_t point = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (point < args.long_slots) {
    args.long_cells[point] = -1;
    *args.long_count = 0;
  }
  if (point >= args.count) {
    return;
  }
  int index[3];
  bool kept = true;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const float position = (args.points[3 * point + axis] - args.lower[axis]) / args.step[axis];
    const bool inside = position > -1.0f && position < args.size[axis];
    index[axis] = inside ? static_cast<int>(position) : 0;
    kept = kept && inside;
  }
  const int64_t sample = point / args.points_per_sample;
  const int64_t local = (static_cast<int64_t>(index[2]) * args.grid_height + index[1]) * args.grid_width + index[0];
  args.cell_of_point[point] = kept ? static_cast<int32_t>(sample * args.cells_per_sample + local) : -1;
}

// Rows of the longest stretch of points of one cell down a column, the topmost of equals; none if too short.
__device__ inline int2 longest_run(const PlanArgs& args, int64_t first) {
  int2 best = {0, 0};
  int start = 0;
  int32_t before = -1;
#pragma unroll 8
  for (int row = 0; row < args.height; ++row) {
    const int32_t cell = args.cell_of_point[first + static_cast<int64_t>(row) * args.width];
    start = cell == before ? start : row;
    before = cell;
    if (cell >= 0 && row + 1 - start > best.y - best.x) {
      best = {start, row + 1};
    }
  }
  return best.y - best.x < args.min_run ? int2{0, 0} : best;
}

// A thread walks down one image column at one depth. Keys: the cell for a run, cells + cell for a point by itself,
// 2 * cells for all others.
inline __global__ void BEV_OPS_LAUNCH_BOUNDS(2) find_runs(PlanArgs args) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= args.columns) {
    return;
  }
  const int64_t first = column / args.width * args.height * args.width + column % args.width;
  const int2 run = longest_run(args, first);
  const uint32_t nowhere = static_cast<uint32_t>(2 * args.cells);
  args.column_runs[column] = run.x | run.y << 16;
  args.numbers[column] = static_cast<int32_t>(column);
  args.keys[column] =
      run.y == 0 ? nowhere : static_cast<uint32_t>(args.cell_of_point[first + static_cast<int64_t>(run.x) * args.width]);
#pragma unroll 8
  for (int row = 0; row < args.height; ++row) {
    const int64_t point = first + static_cast<int64_t>(row) * args.width;
    const int32_t cell = args.cell_of_point[point];
    const bool alone = cell >= 0 && (row < run.x || row >= run.y);
    args.keys[args.columns + point] = alone ? static_cast<uint32_t>(args.cells + cell) : nowhere;
    args.numbers[args.columns + point] = static_cast<int32_t>(point);
  }
}

// Entry i of the result is the number of keys below i.
inline __global__ void __launch_bounds__(kThreads) find_starts(PlanArgs args) {
  const int64_t key = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (key > 2 * args.cells) {
    return;
  }
  int64_t low = 0, high = args.columns + args.count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (args.sorted[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  args.entry_start[key] = static_cast<int32_t>(low);
}

// Lists the cells with so many entries that a block of its own pools each; in any order.
inline __global__ void __launch_bounds__(kThreads) list_long_cells(PlanArgs args) {
  const int64_t cell = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (cell >= args.cells) {
    return;
  }
  const int32_t* start = args.entry_start + cell;
  if (start[1] - start[0] + start[args.cells + 1] - start[args.cells] > args.long_cell) {
    args.long_cells[atomicAdd(args.long_count, 1)] = static_cast<int32_t>(cell);
  }
}

}  // namespace bev_ops
