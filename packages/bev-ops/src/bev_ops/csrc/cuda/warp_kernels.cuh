// Affine warping of maps on the GPU: kernels, and the host code that decides how they are laid out.
//
// A thread owns one cell and a few channels of it, so that its place is worked out once for several values.
//   forward   The place of an output cell in the map, and the four cells around it.
//   backward  A cell of the map collects from the output cells that read it. Those lie in a small rectangle, which the
//             inverse of the motion tells; each cell in it is asked exactly as the forward pass asks it. So every value
//             has one writer and one order of adding, and nothing is zeroed first.
#pragma once

#include "device.cuh"

namespace bev_ops {

constexpr int kWarpThreads = 256;
constexpr int kWarpChannels = 8;  // of one thread

struct WarpGrid {
  int64_t x;
  int y, z;
};

template <typename T>
struct WarpArgs {
  const T* source;    // forward: maps; backward: gradients of the warped maps. (maps, channels, height, width)
  const float* cells; // (maps, 2, 3): cell (x, y, 1) of now -> cell x, y of then
  T* target;          // like source
  int64_t maps;
  int channels, height, width;
};

// From a cell of now to the cells of then.
struct CellMotion {
  float m[6];
  float width_span, height_span;  // number of cells minus one

  // Along one axis, by way of -1 for the first and 1 for the last cell (published).
  static __device__ float bounded(float cell, float span) {
    const float place = (cell / span * 2 - 1 + 1) * (span / 2);
    const float last = span + 1;
    const float below = place < last ? place : last;  // what is no number lies outside, like both ends
    return below > -1 ? below : -1.0f;
  }

  __device__ float column(int x, int y) const {
    return bounded(m[0] * static_cast<float>(x) + m[1] * static_cast<float>(y) + m[2], width_span);
  }

  __device__ float row(int x, int y) const {
    return bounded(m[3] * static_cast<float>(x) + m[4] * static_cast<float>(y) + m[5], height_span);
  }
};

template <typename T>
__device__ CellMotion cell_motion(const WarpArgs<T>& args, int64_t map) {
  CellMotion motion;
#pragma unroll
  for (int i = 0; i < 6; ++i) {
    motion.m[i] = args.cells[map * 6 + i];
  }
  motion.width_span = static_cast<float>(args.width - 1);
  motion.height_span = static_cast<float>(args.height - 1);
  return motion;
}

// Weight of cell `cell` for a value read at `place`; 0 for all but the two cells around it.
__device__ inline float share(float place, int cell) {
  const float before = floorf(place), after_weight = place - before;
  const int first = static_cast<int>(before);
  return cell == first ? 1 - after_weight : cell == first + 1 ? after_weight : 0.0f;
}

// Adds one cell of some planes, `plane` numbers apart.
template <typename T>
__device__ void add_cell(const T* source, int64_t plane, int count, float weight, SumOf<T> (&sums)[kWarpChannels]) {
#pragma unroll
  for (int c = 0; c < kWarpChannels; ++c) {
    if (c < count) {
      sums[c] = fused_multiply_add(static_cast<SumOf<T>>(weight), static_cast<SumOf<T>>(source[c * plane]), sums[c]);
    }
  }
}

template <typename T>
__device__ void read_map(const WarpArgs<T>& args, const CellMotion& motion, int x, int y, const T* planes, int count,
                         SumOf<T> (&sums)[kWarpChannels]) {
  const float column = motion.column(x, y), row = motion.row(x, y);
  const int left = static_cast<int>(floorf(column)), top = static_cast<int>(floorf(row));
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int i = left + corner % 2, j = top + corner / 2;
    if (i >= 0 && i < args.width && j >= 0 && j < args.height) {
      add_cell(planes + static_cast<int64_t>(j) * args.width + i, static_cast<int64_t>(args.height) * args.width, count,
               share(column, i) * share(row, j), sums);
    }
  }
}

// The whole numbers of 0..count that lie within `reach` of `middle`; all of them where that is no number.
struct Candidates {
  int first, end;
};

__device__ inline Candidates candidates(float middle, float reach, int count) {
  const float low = middle - reach, high = middle + reach;
  const int first = low > 0 ? (low < static_cast<float>(count) ? static_cast<int>(low) : count) : 0;
  const int last = high < static_cast<float>(count) ? (high > -1 ? static_cast<int>(high) + 1 : 0) : count;
  return {first, last};
}

template <typename T>
__device__ void collect(const WarpArgs<T>& args, const CellMotion& motion, int i, int j, const T* planes, int count,
                        SumOf<T> (&sums)[kWarpChannels]) {
  const float* m = motion.m;
  const float determinant = m[0] * m[4] - m[1] * m[3];
  const float dx = static_cast<float>(i) - m[2], dy = static_cast<float>(j) - m[5];
  // Half a cell more than the square of the cells around (i, j) needs, for positions that round away from it.
  constexpr float kMargin = 0.5f;
  const Candidates columns = candidates((m[4] * dx - m[1] * dy) / determinant,
                                        (fabsf(m[4]) + fabsf(m[1])) / fabsf(determinant) + kMargin, args.width);
  const Candidates rows = candidates((m[0] * dy - m[3] * dx) / determinant,
                                     (fabsf(m[0]) + fabsf(m[3])) / fabsf(determinant) + kMargin, args.height);
  for (int y = rows.first; y < rows.end; ++y) {
    for (int x = columns.first; x < columns.end; ++x) {
      const float weight = share(motion.column(x, y), i) * share(motion.row(x, y), j);
      if (weight != 0) {
        add_cell(planes + static_cast<int64_t>(y) * args.width + x, static_cast<int64_t>(args.height) * args.width,
                 count, weight, sums);
      }
    }
  }
}

// Grid (blocks of cells, runs of channels, maps).
template <typename T, bool kBackward>
__global__ void __launch_bounds__(kWarpThreads) warp_cells(WarpArgs<T> args) {
  const int64_t plane = static_cast<int64_t>(args.height) * args.width;
  const int64_t cell = static_cast<int64_t>(blockIdx.x) * kWarpThreads + threadIdx.x;
  const int first = blockIdx.y * kWarpChannels;
  if (cell >= plane) {
    return;
  }
  const int count = args.channels - first < kWarpChannels ? args.channels - first : kWarpChannels;
  const int x = static_cast<int>(cell % args.width), y = static_cast<int>(cell / args.width);
  for (int64_t map = blockIdx.z; map < args.maps; map += gridDim.z) {
    const CellMotion motion = cell_motion(args, map);
    const int64_t planes = (map * args.channels + first) * plane;
    SumOf<T> sums[kWarpChannels] = {};
    if constexpr (kBackward) {
      collect(args, motion, x, y, args.source + planes, count, sums);
    } else {
      read_map(args, motion, x, y, args.source + planes, count, sums);
    }
#pragma unroll
    for (int c = 0; c < kWarpChannels; ++c) {
      if (c < count) {
        args.target[planes + c * plane + cell] = static_cast<T>(sums[c]);
      }
    }
  }
}

template <typename T, bool kBackward, typename Launch>
void launch_warp(const WarpArgs<T>& args, const Launch& launch) {
  const int64_t plane = static_cast<int64_t>(args.height) * args.width;
  const WarpGrid grid{(plane + kWarpThreads - 1) / kWarpThreads, (args.channels + kWarpChannels - 1) / kWarpChannels,
                      static_cast<int>(args.maps < 65535 ? args.maps : 65535)};
  launch(warp_cells<T, kBackward>, grid, 0, args);
}

}  // namespace bev_ops
