// Lift-splat pooling on the GPU, backward.
//
// A slot of lanes owns one pixel: it walks the depth bins, keeps the context gradient in registers and sums the depth
// gradient over its lanes. The slots of a warp are pixels of one image column, for which most bins ask for the same
// row of the output's gradient; two warps share the bins of a pixel. No sort and no list of points: the plan holds the
// cell of every point. Every output has one writer and every sum one order.
#pragma once

#include "rows.cuh"

namespace bev_ops {

constexpr int kGradeColumns = 4;                       // image columns of a block
constexpr int kGradeParts = kWarps / kGradeColumns;    // warps that share the bins of a pixel
constexpr int kGradeBins = 32;                         // bins staged in shared memory at a time
constexpr int kGradeTogether = 4;                      // bins of a pixel whose rows are read at once
static_assert(kGradeBins % (kGradeParts * kGradeTogether) == 0, "the bins of a stage are shared out evenly");

template <typename T>
struct BackwardArgs {
  const T* grad_rows;  // gradient of the output, one row per cell
  const T* depth;      // (images, bins, height, width)
  const T* rows;       // context, one row per pixel
  const int32_t* cell_of_point;
  T* depth_grad;
  SumOf<T>* partial;  // (slices, images, bins, height, width) depth gradient of each slice; null with one slice
  T* context_grad;    // (images, channels, height, width)
  int64_t images;
  int bins, height, width, channels, stride;
  RowShape shape;
};

// Bins of the pixels of a block, in shared memory: by bin, row and column.
template <typename T>
struct BinStage {
  SumOf<T>* weight;
  SumOf<T>* dot;
  int* cell;
  int pixels;  // of the block

  static __host__ __device__ size_t bytes(const RowShape& shape) {
    return static_cast<size_t>(kGradeBins) * kGradeColumns * shape.slots * (2 * sizeof(SumOf<T>) + sizeof(int));
  }

  __device__ explicit BinStage(const RowShape& shape) : pixels(kGradeColumns * shape.slots) {
    weight = dynamic_shared<SumOf<T>>();
    dot = weight + kGradeBins * pixels;
    cell = reinterpret_cast<int*>(dot + kGradeBins * pixels);
  }
};

struct PixelBlock {
  int64_t image;
  int first_row, first_column;
};

template <typename T>
__device__ PixelBlock pixel_block(const BackwardArgs<T>& args) {
  const int column_blocks = (args.width + kGradeColumns - 1) / kGradeColumns;
  const int row_blocks = (args.height + args.shape.slots - 1) / args.shape.slots;
  const int64_t rows = static_cast<int64_t>(blockIdx.x) / column_blocks;
  return {rows / row_blocks, static_cast<int>(rows % row_blocks) * args.shape.slots,
          static_cast<int>(static_cast<int64_t>(blockIdx.x) % column_blocks) * kGradeColumns};
}

// Position in the depth tensor of entry i of the stage, -1 beyond the last bin or pixel.
template <typename T>
__device__ int64_t point_of(const BackwardArgs<T>& args, const PixelBlock& block, int first_bin, int i, int pixels) {
  const int bin = first_bin + i / pixels, row = block.first_row + i % pixels / kGradeColumns;
  const int column = block.first_column + i % kGradeColumns;
  const bool inside = bin < args.bins && row < args.height && column < args.width;
  return inside ? ((block.image * args.bins + bin) * args.height + row) * args.width + column : -1;
}

template <typename T>
__device__ void load_bins(const BackwardArgs<T>& args, const PixelBlock& block, int first_bin,
                          const BinStage<T>& stage) {
  for (int i = threadIdx.x; i < kGradeBins * stage.pixels; i += kThreads) {
    const int64_t point = point_of(args, block, first_bin, i, stage.pixels);
    const int cell = point < 0 ? -1 : args.cell_of_point[point];
    stage.cell[i] = cell;
    stage.weight[i] = cell < 0 ? SumOf<T>(0) : static_cast<SumOf<T>>(args.depth[point]);
  }
}

template <typename T>
__device__ void store_bins(const BackwardArgs<T>& args, const PixelBlock& block, int first_bin,
                           const BinStage<T>& stage) {
  for (int i = threadIdx.x; i < kGradeBins * stage.pixels; i += kThreads) {
    const int64_t point = point_of(args, block, first_bin, i, stage.pixels);
    if (point >= 0 && args.partial == nullptr) {
      args.depth_grad[point] = static_cast<T>(stage.dot[i]);
    } else if (point >= 0) {
      const int64_t points = args.images * args.bins * args.height * args.width;
      args.partial[blockIdx.y * points + point] = stage.dot[i];
    }
  }
}

// What a slot knows of its pixel.
template <typename T, int Packs>
struct PixelGrade {
  Pack<T> context[Packs];
  LaneSums<T, Packs> sums;

  __device__ PixelGrade(const BackwardArgs<T>& args, const Place& place, int64_t pixel, bool inside, int base,
                        int width) {
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      context[pack] = Pack<T>{};
      if (inside && place.channel<T>(pack) < width) {
        context[pack] = load_pack(args.rows + pixel * args.stride + base + place.channel<T>(pack));
      }
    }
  }

  // Adds a row of the output's gradient; gives this lane's part of its product with the context.
  __device__ SumOf<T> add(const Pack<T> (&grad)[Packs], SumOf<T> weight) {
    SumOf<T> dot = 0;
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      sums.add_scaled(pack, weight, grad[pack]);
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) {
        dot = fused_multiply_add(static_cast<SumOf<T>>(context[pack].values[i]),
                                 static_cast<SumOf<T>>(grad[pack].values[i]), dot);
      }
    }
    return dot;
  }
};

// A few bins of the pixel of a slot, all rows on their way before the first is used. `entry` is that of the first bin.
template <typename T, int Packs>
__device__ void grade_bins(const BackwardArgs<T>& args, const BinStage<T>& stage, const Place& place, int entry,
                           bool inside, int base, int width, PixelGrade<T, Packs>& grade) {
  const int step = kGradeParts * stage.pixels;
  Pack<T> grads[kGradeTogether][Packs];
#pragma unroll
  for (int k = 0; k < kGradeTogether; ++k) {
    const int cell = inside ? stage.cell[entry + k * step] : -1;
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      grads[k][pack] = Pack<T>{};
      if (cell >= 0 && place.channel<T>(pack) < width) {
        grads[k][pack] =
            load_pack(args.grad_rows + static_cast<int64_t>(cell) * args.stride + base + place.channel<T>(pack));
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kGradeTogether; ++k) {
    const SumOf<T> dot = place.sum_lanes(grade.add(grads[k], stage.weight[entry + k * step]));
    if (place.active() && place.lane == 0) {
      stage.dot[entry + k * step] = dot;
    }
  }
}

// Sums of the warps that share a pixel are added in order; the tile takes the place of the stage.
template <typename T, int Packs>
__device__ void write_context_grad(const BackwardArgs<T>& args, const PixelBlock& block, const Place& place,
                                   const PixelGrade<T, Packs>& grade, int base, int width) {
  SumOf<T>* tile = dynamic_shared<SumOf<T>>();  // by warp, row and channel
  const int pitch = args.shape.slice_channels, warp = threadIdx.x / kWarp;
  if (place.active()) {
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      if (place.channel<T>(pack) < width) {
        grade.sums.store(pack, tile + (warp * place.slots + place.slot) * pitch + place.channel<T>(pack));
      }
    }
  }
  __syncthreads();
  const int left = args.channels - base, channels = left < pitch ? left : pitch;
  for (int i = threadIdx.x; i < channels * place.slots * kGradeColumns; i += kThreads) {
    const int column = i % kGradeColumns, slot = i / kGradeColumns % place.slots;
    const int channel = i / (kGradeColumns * place.slots);
    const int row = block.first_row + slot, image_column = block.first_column + column;
    if (row < args.height && image_column < args.width) {
      SumOf<T> total = 0;
      for (int part = 0; part < kGradeParts; ++part) {
        total += tile[((part * kGradeColumns + column) * place.slots + slot) * pitch + channel];
      }
      args.context_grad[((block.image * args.channels + base + channel) * args.height + row) * args.width +
                        image_column] = static_cast<T>(total);
    }
  }
}

template <typename T, int Packs>
__global__ void BEV_OPS_LAUNCH_BOUNDS(Packs == 1 ? 2 : 1) pool_backward(BackwardArgs<T> args) {
  const BinStage<T> stage(args.shape);
  const PixelBlock block = pixel_block(args);
  const Place place(args.shape);
  const int warp = threadIdx.x / kWarp, column = warp % kGradeColumns, part = warp / kGradeColumns;
  const int base = blockIdx.y * args.shape.slice_channels;
  const int left = args.stride - base, width = left < args.shape.slice_channels ? left : args.shape.slice_channels;
  const int row = block.first_row + place.slot, image_column = block.first_column + column;
  const bool inside = place.active() && row < args.height && image_column < args.width;
  PixelGrade<T, Packs> grade(args, place, (block.image * args.height + row) * args.width + image_column, inside, base,
                             width);
  for (int first_bin = 0; first_bin < args.bins; first_bin += kGradeBins) {
    load_bins(args, block, first_bin, stage);
    __syncthreads();
    for (int bin = part; bin < kGradeBins; bin += kGradeParts * kGradeTogether) {
      const int entry = bin * stage.pixels + (place.active() ? place.slot : 0) * kGradeColumns + column;
      grade_bins(args, stage, place, entry, inside, base, width, grade);
    }
    __syncthreads();
    store_bins(args, block, first_bin, stage);
    __syncthreads();
  }
  write_context_grad(args, block, place, grade, base, width);
}

template <typename T, typename Launch>
void launch_backward(BackwardArgs<T> args, const Launch& launch) {
  args.shape = row_shape<T>(args.stride);
  const int64_t rows = args.images * ((args.height + args.shape.slots - 1) / args.shape.slots);
  const int64_t blocks = rows * ((args.width + kGradeColumns - 1) / kGradeColumns);
  const size_t tile = sizeof(SumOf<T>) * kWarps * args.shape.slots * args.shape.slice_channels;
  const size_t stage = BinStage<T>::bytes(args.shape);
  with_packs<T>(args.shape.packs, [&](auto packs) {
    launch(pool_backward<T, packs()>, GridSize{blocks, args.shape.slices, 1}, tile > stage ? tile : stage, args);
  });
}

template <typename T>
struct SumSlicesArgs {
  const SumOf<T>* partial;  // (slices, count)
  T* out;
  int64_t count;
  int slices;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) sum_slices(SumSlicesArgs<T> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < args.count) {
    SumOf<T> total = 0;
    for (int slice = 0; slice < args.slices; ++slice) {
      total += args.partial[slice * args.count + i];
    }
    args.out[i] = static_cast<T>(total);
  }
}

template <typename T, typename Launch>
void launch_sum_slices(const SumSlicesArgs<T>& args, const Launch& launch) {
  launch(sum_slices<T>, GridSize{(args.count + kThreads - 1) / kThreads, 1, 1}, 0, args);
}

}  // namespace bev_ops
