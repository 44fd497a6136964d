// Gaussian peaks of training heat maps on the GPU.
//
// A block draws the square of one box. Peaks meet by the larger value, whatever the order: numbers from 0 on compare as
// the whole numbers that share their bits, so an integer maximum does it, and equal input gives equal bits.
#pragma once

#include "device.cuh"

namespace bev_ops {

constexpr int kPeakThreads = 128;

struct PeakArgs {
  const int64_t* plane;    // (boxes,) -1: draws nothing
  const int64_t* cell_xy;  // (boxes, 2)
  const int64_t* radius;   // (boxes,) cells
  int* heatmaps;           // (planes, height, width) bits of float32, zeros before
  int64_t height, width;
};

__device__ inline int64_t at_least(int64_t number, int64_t bound) { return number > bound ? number : bound; }
__device__ inline int64_t at_most(int64_t number, int64_t bound) { return number < bound ? number : bound; }

inline __global__ void __launch_bounds__(kPeakThreads) draw_peak(PeakArgs args) {
  const int64_t box = blockIdx.x, plane = args.plane[box];
  if (plane < 0) {
    return;
  }
  const int64_t x = args.cell_xy[2 * box], y = args.cell_xy[2 * box + 1];
  // A radius beyond the map reaches all of it; cut, it cannot overflow. The width of the peak keeps the whole radius.
  const int64_t radius = args.radius[box], reach = at_most(radius, args.height + args.width);
  const int64_t left = at_least(x - reach, 0), top = at_least(y - reach, 0);
  const int64_t columns = at_most(x + reach + 1, args.width) - left, rows = at_most(y + reach + 1, args.height) - top;
  const double sigma = static_cast<double>(2 * radius + 1) / 6, spread = 2 * sigma * sigma;
  for (int64_t i = threadIdx.x; i < columns * rows; i += kPeakThreads) {
    const int64_t column = left + i % columns, row = top + i / columns;
    const int64_t squared = (column - x) * (column - x) + (row - y) * (row - y);
    const float value = static_cast<float>(exp(-static_cast<double>(squared) / spread));
    int bits;
    memcpy(&bits, &value, sizeof(bits));
    atomicMax(args.heatmaps + (plane * args.height + row) * args.width + column, bits);
  }
}

}  // namespace bev_ops
