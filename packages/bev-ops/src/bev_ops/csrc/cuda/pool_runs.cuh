// Lift-splat pooling on the GPU, forward.
//
// The points of one image column at one depth mostly fall into one cell. The plan knows the longest run of such points,
// and the sum is taken in two steps:
//   sum_runs   Blocks walk columns of the images. Context rows and weights are staged in shared memory once and serve
//              many depths; a thread sums four channels down the column for eight depths at a time and writes one row
//              of sums per column and depth. For 16 feature rows that replaces 16 scattered reads of context by one row
//              written and one read, and the tables of the plan shrink as much. Numbers of 16 bits go through tensor
//              cores instead (multiply_runs in pool_products.cuh).
//   sum_cells  A block owns neighbouring cells. Their runs, and the points that are in no run, make one list, of which
//              every slot of lanes sums an equal share; a cell's shares are added in order and written in 32-byte
//              pieces. Cells with many entries get a whole block each, and those blocks start first.
// Every output has one writer and every sum one order: results are equal from run to run, and nothing is zeroed first.
#pragma once

#include "rows.cuh"

namespace bev_ops {

constexpr int kColumns = 4;  // image columns of a block of sum_runs
constexpr int kBins = 8;     // depths of a thread there
constexpr int kQuad = 4;     // channels of a thread there
constexpr int kStagedRows = 16;  // image rows in shared memory at a time
constexpr int kStagedPixels = kStagedRows * kColumns;

template <typename T>
struct ForwardArgs {
  const T* depth;    // (images, bins, height, width)
  const T* context;  // (images, height, width, stride), the padding zero
  const int32_t* entry_start;  // (2 * cells + 1)
  const int32_t* entries;
  const int32_t* column_runs;  // (images, bins, width)
  const int32_t* long_cells;
  SumOf<T>* runs;  // (images of this launch, bins, width, stride)
  T* out;          // (samples, channels, cells_per_sample), or channels last
  int64_t cells;   // of the plan
  int64_t cells_per_sample;
  int64_t first_sample, samples;  // of this launch
  int cameras, bins, height, width;
  int channels, stride;
  int long_cell, long_slots, long_blocks;
  bool columns;  // whether there are runs to sum
  bool channels_last;
  bool one_plan;  // of one sample, for all of them
  RowShape shape;
  Divisor points_of_image, pixels_of_image;
  Divisor tiles_of_sample;  // of sum_cells
  Divisor slice_channels;

  // Samples before this one that the plan does not count.
  __device__ int64_t uncounted(int64_t sample) const { return one_plan ? sample : 0; }
  __device__ int64_t plan_image(int64_t image) const {
    return one_plan ? static_cast<unsigned>(image) % cameras : image;
  }
  __device__ int width_of_slice(int base) const {
    const int left = stride - base;
    return left < shape.slice_channels ? left : shape.slice_channels;
  }
};

template <typename V>
struct alignas(8) Quad {
  V values[kQuad];
};

// How the threads of a block of sum_runs are shared out: by channels, then columns, then groups of depths, of which
// shared memory holds fewer in float64.
template <typename T>
struct RunLayout {
  int quads;   // threads of a column
  int groups;  // of depths

  __host__ __device__ explicit RunLayout(const RowShape& shape) : quads(shape.slice_channels / kQuad) {
    const int fit = kThreads / (quads * kColumns), most = sizeof(T) == 8 ? 3 : 8;
    groups = fit < most ? fit : most;
  }

  __host__ __device__ int bins() const { return groups * kBins; }
  __host__ __device__ int pitch() const { return bins() + 4; }
};

// What a block of sum_runs stages: by image row and column, weights of its depths, and channels.
template <typename T>
struct RunStage {
  SumOf<T>* weight;
  T* context;

  static size_t bytes(const RowShape& shape) {
    return kStagedPixels * (RunLayout<T>(shape).pitch() * sizeof(SumOf<T>) + shape.slice_channels * sizeof(T));
  }

  __device__ explicit RunStage(const RowShape& shape) : weight(dynamic_shared<SumOf<T>>()) {
    context = reinterpret_cast<T*>(weight + kStagedPixels * RunLayout<T>(shape).pitch());
  }
};

// Where a block of sum_runs works.
struct ColumnBlock {
  int64_t image;
  int first_column, first_bin;
};

template <typename T>
__device__ ColumnBlock column_block(const ForwardArgs<T>& args, int bins_of_block) {
  const unsigned bin_blocks = (args.bins + bins_of_block - 1) / bins_of_block;
  const unsigned column_blocks = (args.width + kColumns - 1) / kColumns, columns = blockIdx.x / bin_blocks;
  return {args.first_sample * args.cameras + columns / column_blocks,
          static_cast<int>(columns % column_blocks) * kColumns,
          static_cast<int>(blockIdx.x % bin_blocks) * bins_of_block};
}

// Whether the run of a column and depth covers an image row.
__device__ inline bool run_covers(int32_t run, int row) { return row >= (run & 0xffff) && row < run >> 16; }

// Weights of points outside of runs are zero. Every thread stages one pixel at every fourth depth, several of them on
// their way at a time.
template <typename T>
__device__ void stage_weights(const ForwardArgs<T>& args, const ColumnBlock& block, int first_row,
                              const RunLayout<T>& layout, const RunStage<T>& stage) {
  constexpr int kBatch = 3, kStep = kThreads / kStagedPixels;
  const int pixel = threadIdx.x % kStagedPixels, row = first_row + pixel / kColumns;
  const int column = block.first_column + pixel % kColumns;
  const bool inside = row < args.height && column < args.width;
  const int first = threadIdx.x / kStagedPixels, left = args.bins - block.first_bin;
  const int last = inside ? (left < layout.bins() ? left : layout.bins()) : 0;
  const int64_t at = block.image * args.bins + block.first_bin + first;
  const int32_t* runs =
      args.column_runs + (args.plan_image(block.image) * args.bins + block.first_bin + first) * args.width + column;
  const T* depth = args.depth + (at * args.height + row) * args.width + column;
  const int run_step = kStep * args.width, depth_step = run_step * args.height;
  SumOf<T>* target = stage.weight + pixel * layout.pitch() + first;
  for (int bin = first; bin < layout.bins(); bin += kBatch * kStep, target += kBatch * kStep) {
    int32_t run[kBatch];
    T weight[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k, runs += run_step, depth += depth_step) {
      run[k] = 0;
      weight[k] = T(0);
      if (bin + k * kStep < last) {
        run[k] = *runs;
        weight[k] = *depth;
      }
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (bin + k * kStep < layout.bins()) {
        target[k * kStep] = run_covers(run[k], row) ? static_cast<SumOf<T>>(weight[k]) : SumOf<T>(0);
      }
    }
  }
}

// Four threads stage one pixel, without waiting.
template <typename T>
__device__ void stage_context(const ForwardArgs<T>& args, const ColumnBlock& block, int first_row, int base,
                              const RunStage<T>& stage) {
  constexpr int kSharers = kThreads / kStagedPixels;
  const int width = args.width_of_slice(base);
  const int pixel = threadIdx.x / kSharers, sharer = threadIdx.x % kSharers;
  const int row = first_row + pixel / kColumns, column = block.first_column + pixel % kColumns;
  T* target = stage.context + pixel * args.shape.slice_channels;
  const bool inside = row < args.height && column < args.width;
  const T* source = args.context + ((block.image * args.height + row) * args.width + column) * args.stride + base;
  for (int channel = sharer * kPackSize<T>; channel < width; channel += kSharers * kPackSize<T>) {
    if (inside) {
      __pipeline_memcpy_async(target + channel, source + channel, 16);
    } else {
      store_pack(target + channel, Pack<T>{});
    }
  }
}

// Adds the staged rows to the sums of a thread: four channels of one column at eight depths.
template <typename T>
__device__ void add_rows(const T* context, int context_step, const SumOf<T>* weight, int weight_step,
                         SumOf<T> (&sums)[kBins][kQuad]) {
#pragma unroll 4
  for (int row = 0; row < kStagedRows; ++row) {
    const Quad<T> numbers = *reinterpret_cast<const Quad<T>*>(context + row * context_step);
    SumOf<T> weights[kBins];
#pragma unroll
    for (int bin = 0; bin < kBins; bin += kPackSize<SumOf<T>>) {
      *reinterpret_cast<Pack<SumOf<T>>*>(weights + bin) =
          *reinterpret_cast<const Pack<SumOf<T>>*>(weight + row * weight_step + bin);
    }
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const SumOf<T> number = static_cast<SumOf<T>>(numbers.values[i]);
#pragma unroll
      for (int bin = 0; bin < kBins; ++bin) {
        sums[bin][i] = fused_multiply_add(weights[bin], number, sums[bin][i]);
      }
    }
  }
}

// Rows of columns without a run are written too: nobody reads them, and a column need not be asked.
template <typename T>
__device__ void store_runs(const ForwardArgs<T>& args, const ColumnBlock& block, int bin, int column, int channel,
                           const SumOf<T> (&sums)[kBins][kQuad]) {
  const int first_bin = block.first_bin + bin, count = args.bins - first_bin;
  const int64_t at = (block.image - args.first_sample * args.cameras) * args.bins + first_bin;
  SumOf<T>* row = args.runs + (at * args.width + block.first_column + column) * args.stride + channel;
  const int64_t step = static_cast<int64_t>(args.width) * args.stride;
#pragma unroll
  for (int k = 0; k < kBins; ++k, row += step) {
    if (k < count) {
#pragma unroll
      for (int i = 0; i < kQuad; i += kPackSize<SumOf<T>>) {
        store_pack(row + i, *reinterpret_cast<const Pack<SumOf<T>>*>(&sums[k][i]));
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 8 ? 1 : 2)
    sum_runs(ForwardArgs<T> args) {
  wait_for_previous();
  start_next();
  const RunLayout<T> layout(args.shape);
  const RunStage<T> stage(args.shape);
  const ColumnBlock block = column_block(args, layout.bins());
  const int base = blockIdx.y * args.shape.slice_channels;
  const int quad = static_cast<int>(threadIdx.x) % layout.quads, rest = static_cast<int>(threadIdx.x) / layout.quads;
  const int column = rest % kColumns, group = rest / kColumns;
  const bool busy = group < layout.groups && quad * kQuad < args.width_of_slice(base) &&
                    block.first_column + column < args.width;
  alignas(16) SumOf<T> sums[kBins][kQuad] = {};
  for (int first_row = 0; first_row < args.height; first_row += kStagedRows) {
    stage_context(args, block, first_row, base, stage);
    stage_weights(args, block, first_row, layout, stage);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    __syncthreads();
    if (busy) {
      add_rows<T>(stage.context + column * args.shape.slice_channels + quad * kQuad,
                  kColumns * args.shape.slice_channels, stage.weight + column * layout.pitch() + group * kBins,
                  kColumns * layout.pitch(), sums);
    }
    __syncthreads();
  }
  if (busy) {
    store_runs(args, block, group * kBins, column, base + quad * kQuad, sums);
  }
}

template <typename T, typename Launch>
void launch_sum_runs(const ForwardArgs<T>& args, const Launch& launch) {
  const int bins = RunLayout<T>(args.shape).bins();
  const int64_t blocks = args.samples * args.cameras * ((args.width + kColumns - 1) / kColumns) *
                         ((args.bins + bins - 1) / bins);
  launch.overlapping(sum_runs<T>, GridSize{blocks, args.shape.slices, 1}, RunStage<T>::bytes(args.shape), args);
}

}  // namespace bev_ops
