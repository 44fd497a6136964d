// Lift-splat pooling by the index tables of bev_deploy.tables, in one kernel that writes every cell.
//
// A warp owns a cell. Its lanes first look up what the cell is the sum of, 32 entries at a time (the sums of the second
// level add up 8 sums of 4 entries: one entry per lane), and then own channels: every weight is read once for all lanes,
// and neighbouring lanes read and write neighbouring numbers. Sums are float32 and have a fixed order.
//
// Letters: B samples, N cameras, D depth bins, h x w feature pixels, C channels, V cells of all samples.
#pragma once

#ifdef BEV_OPS_CUDA_RUNTIME
#include BEV_OPS_CUDA_RUNTIME
#endif

#include <cstdint>

namespace bev_deploy {

constexpr int kWarp = 32;
constexpr int kWarps = 8;  // of a block: cells that it pools
constexpr int kThreads = kWarps * kWarp;
constexpr int kLaneChannels = 4;
constexpr int kBlockChannels = kLaneChannels * kWarp;  // more are split over blockIdx.y
constexpr int kFirstFan = 4, kSecondFan = 8;           // rows that one sum of the first and the second level adds up
constexpr unsigned kAllLanes = 0xffffffffu;

static_assert(kFirstFan * kSecondFan == kWarp, "a sum of the second level has one entry per lane");

template <typename T>
struct PoolArgs {
  const T* depth;          // (B, N, D, h, w)
  const T* columns;        // (B, N, w, h, C)
  const int* run_first;    // (B, N, w, D)
  const int* run_end;      // (B, N, w, D)
  const int* point_depth;  // (P)
  const int* point_pixel;  // (P)
  const int* sums_1;       // (R1, 4)
  const int* sums_2;       // (R2, 8)
  const int* sums_3;       // (R3, width_3)
  const int* cell_row;     // (V)
  T* cells;                // (V, C)
  int bins, rows, width, channels;
  int runs;  // B * N * w * D
  int points, sums_1_rows, sums_2_rows, width_3, cell_count;
};

// Products that an entry is the sum of: `count` weights, `width` apart, times as many pixels, next to each other.
struct Terms {
  int weight, pixel, count;
};

template <typename T>
class CellPool {
  const PoolArgs<T>& args_;
  int lane_, first_channel_;
  float sums_[kLaneChannels];

  // Rows of the three levels begin where those before them end; row 0 is zero, then come runs and points.
  __device__ int first_level() const { return 1 + args_.runs + args_.points; }
  __device__ int second_level() const { return first_level() + args_.sums_1_rows; }
  __device__ int third_level() const { return second_level() + args_.sums_2_rows; }

  __device__ int entry_of_first(int row, int place) const { return row == 0 ? 0 : args_.sums_1[row * kFirstFan + place]; }

  __device__ int entry_of_second(int row) const {
    const int first = row == 0 ? 0 : args_.sums_2[row * kSecondFan + lane_ / kFirstFan];
    return entry_of_first(first, lane_ % kFirstFan);
  }

  // The lane's entry of part `k` of a row; 0 if it has none.
  __device__ int entry_of(int row, int k) const {
    if (row >= third_level()) {
      return entry_of_second(args_.sums_3[static_cast<int64_t>(row - third_level()) * args_.width_3 + k]);
    }
    if (row >= second_level()) {
      return entry_of_second(row - second_level());
    }
    if (row >= first_level()) {
      return lane_ < kFirstFan ? entry_of_first(row - first_level(), lane_) : 0;
    }
    return lane_ == 0 ? row : 0;
  }

  __device__ Terms terms_of(int entry) const {
    if (entry == 0) {
      return {0, 0, 0};
    }
    const int run = entry - 1, point = run - args_.runs;
    if (point >= 0) {
      return {args_.point_depth[point], args_.point_pixel[point], 1};
    }
    const int bin = run % args_.bins, column = run / args_.bins;  // column (b, n, j)
    const int first = args_.run_first[run], camera = column / args_.width, j = column - camera * args_.width;
    return {((camera * args_.bins + bin) * args_.rows + first) * args_.width + j, column * args_.rows + first,
            args_.run_end[run] - first};
  }

  __device__ void add_products(int weight, int pixel, int count) {
    const T* weights = args_.depth + weight;
    const T* pixels = args_.columns + static_cast<int64_t>(pixel) * args_.channels + first_channel_;
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
      const float scale = static_cast<float>(weights[static_cast<int64_t>(i) * args_.width]);
#pragma unroll
      for (int k = 0; k < kLaneChannels; ++k) {
        if (first_channel_ + k * kWarp < args_.channels) {
          const T value = pixels[static_cast<int64_t>(i) * args_.channels + k * kWarp];
          sums_[k] = fmaf(scale, static_cast<float>(value), sums_[k]);
        }
      }
    }
  }

  // Adds the entries of all lanes, one lane after the other.
  __device__ void add_entries(int entry) {
    const Terms mine = terms_of(entry);
    unsigned holders = __ballot_sync(kAllLanes, mine.count > 0);
    while (holders != 0) {
      const int holder = __ffs(static_cast<int>(holders)) - 1;
      holders &= holders - 1;
      const int weight = __shfl_sync(kAllLanes, mine.weight, holder, kWarp);
      const int pixel = __shfl_sync(kAllLanes, mine.pixel, holder, kWarp);
      add_products(weight, pixel, __shfl_sync(kAllLanes, mine.count, holder, kWarp));
    }
  }

 public:
  __device__ CellPool(const PoolArgs<T>& args, int first_channel)
      : args_(args), lane_(threadIdx.x % kWarp), first_channel_(first_channel + lane_) {
#pragma unroll
    for (int k = 0; k < kLaneChannels; ++k) {
      sums_[k] = 0;
    }
  }

  __device__ void add_row(int row) {
    const int parts = row >= third_level() ? args_.width_3 : 1;
    for (int k = 0; k < parts; ++k) {
      add_entries(entry_of(row, k));
    }
  }

  __device__ void store(int cell) const {
    T* target = args_.cells + static_cast<int64_t>(cell) * args_.channels + first_channel_;
#pragma unroll
    for (int k = 0; k < kLaneChannels; ++k) {
      if (first_channel_ + k * kWarp < args_.channels) {
        target[k * kWarp] = static_cast<T>(sums_[k]);
      }
    }
  }
};

// Grid: cells / kWarps, channels / kBlockChannels, both rounded up; blocks of kThreads.
template <typename T>
__device__ void pool_tables(const PoolArgs<T>& args) {
  const int cell = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  if (cell >= args.cell_count) {
    return;  // the whole warp
  }
  CellPool<T> pool(args, static_cast<int>(blockIdx.y) * kBlockChannels);
  pool.add_row(args.cell_row[cell]);
  pool.store(cell);
}

}  // namespace bev_deploy
