// The first step of pooling for numbers of 16 bits, by tensor cores: the sums down the runs of an image column at some
// depths are a product of two matrices, of weights (zero outside of runs) and of context. See pool_runs.cuh.
#pragma once

#include "matrix.cuh"
#include "pool_runs.cuh"

namespace bev_ops {

constexpr int kProductDepths = 16;                                // of one warp
constexpr int kProductBins = kProductDepths * kWarps / kColumns;  // of a block: a warp per column and 16 depths
constexpr int kProductTiles = 10;                                 // of 8 channels
constexpr int kTileChannels = 8;
// Pitches in shared memory by which the rows that a warp reads or writes at once lie in different banks.
constexpr int kWeightPitch = kStagedRows + 8;
constexpr int kWeightColumn = kProductBins * kWeightPitch + 8;
constexpr int kProductPitch = kProductTiles * kTileChannels + 8;
static_assert(kStagedRows == 16, "a product sums over 16 image rows");

// Channels of one block; more are split over blockIdx.y.
struct ProductShape {
  int slices, channels;

  __host__ __device__ explicit ProductShape(int stride) {
    const int tiles = stride / kTileChannels;
    slices = (tiles + kProductTiles - 1) / kProductTiles;
    channels = (tiles + slices - 1) / slices * kTileChannels;
  }
};

template <typename T>
struct alignas(16) ProductStage {
  T context[kColumns][kStagedRows][kProductPitch];  // by column, image row and channel
  T weight[kColumns * kWeightColumn];               // by column, depth and image row
  int32_t run[kProductBins][kColumns];
};

// What one thread stages of the weights: one image row and column at every fourth depth.
template <typename T>
class WeightShare {
  static constexpr int kStep = kThreads / kStagedPixels, kDepths = kProductBins / kStep;

  const ForwardArgs<T>& args_;
  int row_, column_, first_, left_;
  const T* depth_;
  int32_t runs_[kDepths];

 public:
  __device__ WeightShare(const ForwardArgs<T>& args, const ColumnBlock& block)
      : args_(args), row_(threadIdx.x % kStagedPixels / kColumns), column_(threadIdx.x % kColumns),
        first_(threadIdx.x / kStagedPixels) {
    const int column = block.first_column + column_, bin = block.first_bin + first_;
    left_ = column < args.width ? args.bins - bin : 0;
    depth_ = args.depth + ((block.image * args.bins + bin) * args.height + row_) * args.width + column;
    const int32_t* runs = args.column_runs + (args.plan_image(block.image) * args.bins + bin) * args.width + column;
#pragma unroll
    for (int k = 0; k < kDepths; ++k) {
      runs_[k] = k * kStep < left_ ? runs[k * kStep * args.width] : 0;
    }
  }

  // Zeros outside of runs. Weights are read beside the runs, not after them.
  __device__ void stage(int first_row, ProductStage<T>& stage) const {
    const int row = first_row + row_;
    const T* source = depth_ + static_cast<int64_t>(first_row) * args_.width;
    const int64_t step = static_cast<int64_t>(kStep) * args_.height * args_.width;
    T weight[kDepths];
#pragma unroll
    for (int k = 0; k < kDepths; ++k) {
      weight[k] = k * kStep < left_ && row < args_.height ? source[k * step] : T(0);
    }
    T* target = stage.weight + column_ * kWeightColumn + first_ * kWeightPitch + row_;
#pragma unroll
    for (int k = 0; k < kDepths; ++k) {
      target[k * kStep * kWeightPitch] = run_covers(runs_[k], row) ? weight[k] : T(0);
      if (row_ == 0) {
        stage.run[first_ + k * kStep][column_] = runs_[k];
      }
    }
  }
};

// Four threads copy one pixel, without waiting. Channels up to a whole pair of tiles are set.
template <typename T>
__device__ void copy_context(const ForwardArgs<T>& args, const ColumnBlock& block, int first_row, int base, int width,
                             ProductStage<T>& stage) {
  constexpr int kSharers = kThreads / kStagedPixels;
  const int pixel = threadIdx.x / kSharers, sharer = threadIdx.x % kSharers;
  const int row = first_row + pixel / kColumns, column = block.first_column + pixel % kColumns;
  const bool inside = row < args.height && column < args.width;
  T* target = stage.context[pixel % kColumns][pixel / kColumns];
  const T* source = args.context + ((block.image * args.height + row) * args.width + column) * args.stride + base;
  const int whole = (width + 2 * kTileChannels - 1) / (2 * kTileChannels) * 2 * kTileChannels;
  for (int channel = sharer * kTileChannels; channel < whole; channel += kSharers * kTileChannels) {
    if (inside && channel < width) {
      __pipeline_memcpy_async(target + channel, source + channel, 16);
    } else {
      store_pack(target + channel, Pack<T>{});
    }
  }
}

// The staged image rows of one column, times the weights of 16 depths.
template <typename T>
__device__ void add_products(const ProductStage<T>& stage, int column, int first_bin, int width,
                             float (&sums)[kProductTiles][4]) {
  const int lane = threadIdx.x % kWarp;
  const T* weight = stage.weight + column * kWeightColumn + (first_bin + lane / 4) * kWeightPitch + lane % 4 * 2;
  unsigned left[4];
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    memcpy(&left[part], weight + part % 2 * 8 * kWeightPitch + part / 2 * 8, sizeof(left[part]));
  }
  const T* context = &stage.context[column][lane % 16][lane / 16 * kTileChannels];
#pragma unroll
  for (int tile = 0; tile < kProductTiles; tile += 2) {
    if (tile * kTileChannels < width) {
      unsigned right[4];
      load_right_parts(right, context + tile * kTileChannels);
      multiply_add<T>(sums[tile], left, right[0], right[1]);
      multiply_add<T>(sums[tile + 1], left, right[2], right[3]);
    }
  }
}

struct alignas(8) SumPair {
  float values[2];
};

template <typename T>
__device__ void store_products(const ForwardArgs<T>& args, const ColumnBlock& block, const ProductStage<T>& stage,
                               int column, int first_bin, int base, int width,
                               const float (&sums)[kProductTiles][4]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int bin = first_bin + half * 8 + lane / 4;
    if (stage.run[bin][column] == 0) {
      continue;
    }
    const int64_t image = block.image - args.first_sample * args.cameras;
    const int64_t run = (image * args.bins + block.first_bin + bin) * args.width + block.first_column + column;
    float* row = args.runs + run * args.stride + base + lane % 4 * 2;
#pragma unroll
    for (int tile = 0; tile < kProductTiles; ++tile) {
      if (tile * kTileChannels < width) {
        *reinterpret_cast<SumPair*>(row + tile * kTileChannels) = {sums[tile][2 * half], sums[tile][2 * half + 1]};
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) multiply_runs(ForwardArgs<T> args) {
  __shared__ ProductStage<T> stage;
  wait_for_previous();
  start_next();
  const ColumnBlock block = column_block(args, kProductBins);
  const ProductShape shape(args.stride);
  const int base = blockIdx.y * shape.channels, left = args.stride - base;
  const int width = left < shape.channels ? left : shape.channels;
  const int warp = threadIdx.x / kWarp, column = warp % kColumns, first_bin = warp / kColumns * kProductDepths;
  float sums[kProductTiles][4] = {};
  const WeightShare<T> share(args, block);
  for (int first_row = 0; first_row < args.height; first_row += kStagedRows) {
    copy_context(args, block, first_row, base, width, stage);
    __pipeline_commit();
    share.stage(first_row, stage);
    __pipeline_wait_prior(0);
    __syncthreads();
    add_products(stage, column, first_bin, width, sums);
    __syncthreads();
  }
  store_products(args, block, stage, column, first_bin, base, width, sums);
}

template <typename T, typename Launch>
void launch_multiply_runs(const ForwardArgs<T>& args, const Launch& launch) {
  const int64_t blocks = args.samples * args.cameras * ((args.width + kColumns - 1) / kColumns) *
                         ((args.bins + kProductBins - 1) / kProductBins);
  launch.overlapping(multiply_runs<T>, GridSize{blocks, ProductShape(args.stride).slices, 1}, 0, args);
}

}  // namespace bev_ops
