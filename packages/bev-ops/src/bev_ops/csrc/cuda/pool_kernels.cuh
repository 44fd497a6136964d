// Lift-splat pooling on the GPU: kernels, and the host code that decides how they are laid out.
//
// Channels stand in rows, one row per pixel (context) or per cell (gradient of the output), padded to whole 16-byte
// packs. A group of lanes owns one cell or one pixel and holds its sums in registers:
//   forward   The group fetches the indices and weights of as many points as it has lanes in one go, then passes
//             them round by shuffles while it reads the rows. Neighbouring cells are exchanged through shared memory
//             and leave in NCHW order. Cells with many points get a whole block each, and those blocks start first.
//   backward  The group walks the depth bins of its pixel; the context gradient stays in registers, the depth
//             gradient is a sum over the group. No sort and no list of points: the plan holds a table of cells per
//             pixel.
// Every output has one writer and every sum one order: results are equal from run to run, and nothing is zeroed first.
#pragma once

#include "device.cuh"

namespace bev_ops {

constexpr int kThreads = 256;
constexpr int kMaxChannels = 128;  // of one block; more are split over blockIdx.y
constexpr int kBinChunk = 16;      // depth bins staged in shared memory at a time

struct GridSize {
  int64_t x;
  int y, z;
};

// ---- rows ---------------------------------------------------------------------------------------

template <typename T>
struct PackRowsArgs {
  const T* source;  // (outer, channels, inner)
  T* rows;          // (outer * inner, stride), the padding set to zero
  int64_t outer, inner;
  int channels, stride;
};

constexpr int kTransposeTile = 32;

template <typename T>
__global__ void __launch_bounds__(kThreads) pack_rows(PackRowsArgs<T> args) {
  __shared__ T tile[kTransposeTile][kTransposeTile + 1];
  const int column = threadIdx.x % kTransposeTile, first_row = threadIdx.x / kTransposeTile;
  constexpr int kRowStep = kThreads / kTransposeTile;
  const int64_t first_inner = static_cast<int64_t>(blockIdx.x) * kTransposeTile;
  const int first_channel = blockIdx.y * kTransposeTile;
  for (int64_t outer = blockIdx.z; outer < args.outer; outer += gridDim.z) {
    for (int row = first_row; row < kTransposeTile; row += kRowStep) {
      const int channel = first_channel + row;
      const int64_t inner = first_inner + column;
      const bool inside = channel < args.channels && inner < args.inner;
      tile[row][column] = inside ? args.source[(outer * args.channels + channel) * args.inner + inner] : T(0);
    }
    __syncthreads();
    for (int row = first_row; row < kTransposeTile; row += kRowStep) {
      const int channel = first_channel + column;
      const int64_t inner = first_inner + row;
      if (channel < args.stride && inner < args.inner) {
        args.rows[(outer * args.inner + inner) * args.stride + channel] = tile[column][row];
      }
    }
    __syncthreads();
  }
}

template <typename T, typename Launch>
void launch_pack_rows(const PackRowsArgs<T>& args, const Launch& launch) {
  const int64_t columns = (args.inner + kTransposeTile - 1) / kTransposeTile;
  const int rows = (args.stride + kTransposeTile - 1) / kTransposeTile;
  const int depth = static_cast<int>(args.outer < 65535 ? args.outer : 65535);
  launch(pack_rows<T>, GridSize{columns, rows, depth}, 0, args);
}

// ---- layout -------------------------------------------------------------------------------------

// How a block is divided: groups of `Lanes` threads, each lane holding `Packs` packs of channels.
template <typename T, int Lanes, int Packs>
struct Layout {
  static constexpr int kLanes = Lanes;
  static constexpr int kPacks = Packs;
  static constexpr int kGroups = kThreads / Lanes;
  static constexpr int kChannels = Lanes * Packs * kPackSize<T>;
  static constexpr int kTileRow = kChannels + 1;  // odd, so that columns of the tile fall into different banks
  static constexpr size_t kTileBytes = sizeof(SumOf<T>) * kGroups * kTileRow;
  static_assert(kChannels <= kMaxChannels, "a block holds at most kMaxChannels channels");

  // Channel, within the block, of the first number of pack `pack` of a lane.
  static __device__ int channel(int lane, int pack) { return (pack * Lanes + lane) * kPackSize<T>; }
};

// Equal slices of a row of channels, each small enough for one block.
struct Slices {
  int count;
  int channels;  // of each slice, a whole number of packs
};

template <typename T>
Slices slice_channels(int stride) {
  const int packs = stride / kPackSize<T>, most = kMaxChannels / kPackSize<T>;
  const int count = packs > most ? (packs + most - 1) / most : 1;
  return {count, (packs + count - 1) / count * kPackSize<T>};
}

// Calls `body` with the layout that wastes few lanes on a slice and reads its rows in long pieces.
template <typename T, typename Body>
void with_layout(int slice_channels, const Body& body) {
  const int packs = slice_channels / kPackSize<T>;
  if constexpr (std::is_same_v<T, double>) {  // for checking gradients, not for speed
    packs <= 8 ? body(Layout<T, 8, 1>{}) : body(Layout<T, 32, 2>{});
  } else if (packs <= 4) {
    body(Layout<T, 4, 1>{});
  } else if (packs <= 8) {
    body(Layout<T, 8, 1>{});
  } else if (packs <= 12) {
    body(Layout<T, 4, 3>{});
  } else if (packs <= 16) {
    body(Layout<T, 16, 1>{});
  } else if constexpr (std::is_same_v<T, float>) {  // 16-bit types need at most 16 packs
    packs <= 24 ? body(Layout<T, 8, 3>{}) : body(Layout<T, 16, 2>{});
  }
}

// ---- forward ------------------------------------------------------------------------------------

template <typename T>
struct ForwardArgs {
  const T* depth;
  const T* rows;  // context, one row per pixel
  const int32_t* cell_start;
  const int32_t* point_depth;
  const int32_t* point_pixel;
  const int32_t* long_cells;
  T* out;  // (samples, channels, cells_per_sample)
  int64_t samples, cells_per_sample;
  int channels, stride;  // of the output, and of a row
  int slice_channels;
  int long_cell;   // cells with more points than this stand in long_cells
  int long_slots;  // length of long_cells; the first blocks of the grid
};

// The sums of one lane.
template <typename T, typename L>
struct LaneSums {
  SumOf<T> values[L::kPacks][kPackSize<T>];

  __device__ LaneSums() {
#pragma unroll
    for (int pack = 0; pack < L::kPacks; ++pack) {
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) {
        values[pack][i] = 0;
      }
    }
  }

  __device__ void add_scaled(int pack, SumOf<T> weight, const Pack<T>& numbers) {
#pragma unroll
    for (int i = 0; i < kPackSize<T>; ++i) {
      values[pack][i] = fused_multiply_add(weight, static_cast<SumOf<T>>(numbers.values[i]), values[pack][i]);
    }
  }

  __device__ void store(int lane, SumOf<T>* tile_row) const {
#pragma unroll
    for (int pack = 0; pack < L::kPacks; ++pack) {
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) {
        tile_row[L::channel(lane, pack) + i] = values[pack][i];
      }
    }
  }
};

// Whether a pack of a lane holds channels of this slice; `base` is the first channel of the slice.
template <typename L>
__device__ bool holds_channels(int lane, int pack, int base, int slice_channels, int stride) {
  const int channel = L::channel(lane, pack);
  return channel < slice_channels && base + channel < stride;
}

template <typename T, typename L>
__device__ void add_points(const ForwardArgs<T>& args, int begin, int end, int base, LaneSums<T, L>& sums) {
  const LaneGroup<L::kLanes> group;
  for (int first = begin; first < end; first += L::kLanes) {
    const int point = first + group.lane();
    int pixel = 0;
    SumOf<T> weight = 0;
    if (point < end) {
      pixel = args.point_pixel[point];
      weight = static_cast<SumOf<T>>(args.depth[args.point_depth[point]]);
    }
    const int count = end - first < L::kLanes ? end - first : L::kLanes;
#pragma unroll 4
    for (int k = 0; k < count; ++k) {
      const T* row = args.rows + static_cast<int64_t>(group.broadcast(pixel, k)) * args.stride + base;
      const SumOf<T> point_weight = group.broadcast(weight, k);
#pragma unroll
      for (int pack = 0; pack < L::kPacks; ++pack) {
        if (holds_channels<L>(group.lane(), pack, base, args.slice_channels, args.stride)) {
          sums.add_scaled(pack, point_weight, load_pack(row + L::channel(group.lane(), pack)));
        }
      }
    }
  }
}

// One cell, by all groups of the block: each takes a run of its points, and the runs are added in order.
template <typename T, typename L>
__device__ void pool_long_cell(const ForwardArgs<T>& args, int cell, int base, int width, SumOf<T>* tile) {
  const LaneGroup<L::kLanes> group;
  const int begin = args.cell_start[cell], end = args.cell_start[cell + 1];
  const int points = (end - begin + L::kGroups - 1) / L::kGroups;
  const int run = (points + L::kLanes - 1) / L::kLanes * L::kLanes;
  const int64_t run_begin = begin + static_cast<int64_t>(group.index()) * run;
  LaneSums<T, L> sums;
  if (run_begin < end) {
    const int64_t run_end = run_begin + run;
    add_points(args, static_cast<int>(run_begin), static_cast<int>(run_end < end ? run_end : end), base, sums);
  }
  sums.store(group.lane(), tile + group.index() * L::kTileRow);
  __syncthreads();
  const int64_t sample = cell / args.cells_per_sample, local = cell % args.cells_per_sample;
  for (int channel = threadIdx.x; channel < width; channel += kThreads) {
    SumOf<T> total = 0;
    for (int row = 0; row < L::kGroups; ++row) {
      total += tile[row * L::kTileRow + channel];
    }
    args.out[(sample * args.channels + base + channel) * args.cells_per_sample + local] = static_cast<T>(total);
  }
}

// As many neighbouring cells as the block has groups, leaving out the long ones.
template <typename T, typename L>
__device__ void pool_cells(const ForwardArgs<T>& args, int64_t block, int base, int width, SumOf<T>* tile) {
  __shared__ bool written[L::kGroups];
  const LaneGroup<L::kLanes> group;
  const int64_t blocks_per_sample = (args.cells_per_sample + L::kGroups - 1) / L::kGroups;
  const int64_t sample = block / blocks_per_sample, first = block % blocks_per_sample * L::kGroups;
  const bool inside = first + group.index() < args.cells_per_sample;
  const int64_t cell = sample * args.cells_per_sample + first + group.index();
  const int begin = inside ? args.cell_start[cell] : 0, end = inside ? args.cell_start[cell + 1] : 0;
  const bool mine = inside && end - begin <= args.long_cell;
  LaneSums<T, L> sums;
  if (mine) {
    add_points(args, begin, end, base, sums);
  }
  sums.store(group.lane(), tile + group.index() * L::kTileRow);
  if (group.lane() == 0) {
    written[group.index()] = mine;
  }
  __syncthreads();
  T* out = args.out + (sample * args.channels + base) * args.cells_per_sample + first;
  for (int i = threadIdx.x; i < width * L::kGroups; i += kThreads) {
    const int row = i % L::kGroups, channel = i / L::kGroups;
    if (written[row]) {
      out[channel * args.cells_per_sample + row] = static_cast<T>(tile[row * L::kTileRow + channel]);
    }
  }
}

template <typename T, typename L>
__global__ void __launch_bounds__(kThreads, 2) pool_forward(ForwardArgs<T> args) {
  SumOf<T>* tile = dynamic_shared<SumOf<T>>();
  const int base = blockIdx.y * args.slice_channels;
  const int left = args.channels - base;
  const int width = left < args.slice_channels ? left : args.slice_channels;
  const int64_t block = static_cast<int64_t>(blockIdx.x) - args.long_slots;
  if (block >= 0) {
    pool_cells<T, L>(args, block, base, width, tile);
  } else if (args.long_cells[blockIdx.x] >= 0) {
    pool_long_cell<T, L>(args, args.long_cells[blockIdx.x], base, width, tile);
  }
}

template <typename T, typename Launch>
void launch_forward(ForwardArgs<T> args, const Launch& launch) {
  const Slices slices = slice_channels<T>(args.stride);
  args.slice_channels = slices.channels;
  with_layout<T>(slices.channels, [&](auto layout) {
    using L = decltype(layout);
    const int64_t blocks_per_sample = (args.cells_per_sample + L::kGroups - 1) / L::kGroups;
    const GridSize grid{args.long_slots + args.samples * blocks_per_sample, slices.count, 1};
    launch(pool_forward<T, L>, grid, L::kTileBytes, args);
  });
}

// ---- backward -----------------------------------------------------------------------------------

template <typename T>
struct BackwardArgs {
  const T* grad_rows;  // gradient of the output, one row per cell
  const T* depth;      // (images, bins, pixels)
  const T* rows;       // context, one row per pixel
  const int32_t* cell_of_point;
  T* depth_grad;
  SumOf<T>* partial;  // (slices, images, bins, pixels) depth gradient of each slice; null with one slice
  T* context_grad;    // (images, channels, pixels)
  int64_t images, pixels;
  int bins, channels, stride, slice_channels;
};

// Depth bins of the pixels of a block, in shared memory.
template <typename T, typename L>
struct BinChunk {
  int cell[kBinChunk * L::kGroups];
  SumOf<T> weight[kBinChunk * L::kGroups];
  SumOf<T> dot[kBinChunk * L::kGroups];
};

// Position in the depth tensor of entry i of a chunk, -1 beyond the last bin or pixel.
template <typename T, typename L>
__device__ int64_t point_of(const BackwardArgs<T>& args, int i, int64_t image, int64_t first_pixel, int first_bin) {
  const int64_t pixel = first_pixel + i % L::kGroups;
  const int bin = first_bin + i / L::kGroups;
  return pixel < args.pixels && bin < args.bins ? (image * args.bins + bin) * args.pixels + pixel : -1;
}

template <typename T, typename L>
__device__ void load_bins(const BackwardArgs<T>& args, int64_t image, int64_t first_pixel, int first_bin,
                          BinChunk<T, L>& chunk) {
  for (int i = threadIdx.x; i < kBinChunk * L::kGroups; i += kThreads) {
    const int64_t point = point_of<T, L>(args, i, image, first_pixel, first_bin);
    const int cell = point < 0 ? -1 : args.cell_of_point[point];
    chunk.cell[i] = cell;
    chunk.weight[i] = cell < 0 ? SumOf<T>(0) : static_cast<SumOf<T>>(args.depth[point]);
  }
}

template <typename T, typename L>
__device__ void store_bins(const BackwardArgs<T>& args, int64_t image, int64_t first_pixel, int first_bin,
                           const BinChunk<T, L>& chunk) {
  for (int i = threadIdx.x; i < kBinChunk * L::kGroups; i += kThreads) {
    const int64_t point = point_of<T, L>(args, i, image, first_pixel, first_bin);
    if (point >= 0 && args.partial == nullptr) {
      args.depth_grad[point] = static_cast<T>(chunk.dot[i]);
    } else if (point >= 0) {
      args.partial[blockIdx.y * args.images * args.bins * args.pixels + point] = chunk.dot[i];
    }
  }
}

// The group's pixel against the bins of a chunk.
template <typename T, typename L>
__device__ void grade_bins(const BackwardArgs<T>& args, int base, const Pack<T> (&context)[L::kPacks],
                           BinChunk<T, L>& chunk, LaneSums<T, L>& sums) {
  const LaneGroup<L::kLanes> group;
  for (int bin = 0; bin < kBinChunk; ++bin) {
    const int entry = bin * L::kGroups + group.index();
    const int cell = chunk.cell[entry];
    SumOf<T> dot = 0;
    if (cell >= 0) {
      const T* row = args.grad_rows + static_cast<int64_t>(cell) * args.stride + base;
#pragma unroll
      for (int pack = 0; pack < L::kPacks; ++pack) {
        if (holds_channels<L>(group.lane(), pack, base, args.slice_channels, args.stride)) {
          const Pack<T> grad = load_pack(row + L::channel(group.lane(), pack));
          sums.add_scaled(pack, chunk.weight[entry], grad);
#pragma unroll
          for (int i = 0; i < kPackSize<T>; ++i) {
            dot = fused_multiply_add(static_cast<SumOf<T>>(context[pack].values[i]),
                                     static_cast<SumOf<T>>(grad.values[i]), dot);
          }
        }
      }
      dot = group.sum(dot);
    }
    if (group.lane() == 0) {
      chunk.dot[entry] = dot;
    }
  }
}

template <typename T, typename L>
__global__ void __launch_bounds__(kThreads, 2) pool_backward(BackwardArgs<T> args) {
  __shared__ BinChunk<T, L> chunk;
  SumOf<T>* tile = dynamic_shared<SumOf<T>>();
  const LaneGroup<L::kLanes> group;
  const int base = blockIdx.y * args.slice_channels;
  const int64_t blocks_per_image = (args.pixels + L::kGroups - 1) / L::kGroups;
  const int64_t image = blockIdx.x / blocks_per_image, first = blockIdx.x % blocks_per_image * L::kGroups;
  Pack<T> context[L::kPacks];
#pragma unroll
  for (int pack = 0; pack < L::kPacks; ++pack) {
    if (first + group.index() < args.pixels &&
        holds_channels<L>(group.lane(), pack, base, args.slice_channels, args.stride)) {
      const T* row = args.rows + (image * args.pixels + first + group.index()) * args.stride + base;
      context[pack] = load_pack(row + L::channel(group.lane(), pack));
    }
  }
  LaneSums<T, L> sums;
  for (int bin = 0; bin < args.bins; bin += kBinChunk) {
    load_bins(args, image, first, bin, chunk);
    __syncthreads();
    grade_bins<T, L>(args, base, context, chunk, sums);
    __syncthreads();
    store_bins(args, image, first, bin, chunk);
  }
  sums.store(group.lane(), tile + group.index() * L::kTileRow);
  __syncthreads();
  const int left = args.channels - base;
  const int width = left < args.slice_channels ? left : args.slice_channels;
  T* out = args.context_grad + (image * args.channels + base) * args.pixels + first;
  for (int i = threadIdx.x; i < width * L::kGroups; i += kThreads) {
    const int row = i % L::kGroups, channel = i / L::kGroups;
    if (first + row < args.pixels) {
      out[channel * args.pixels + row] = static_cast<T>(tile[row * L::kTileRow + channel]);
    }
  }
}

template <typename T, typename Launch>
void launch_backward(BackwardArgs<T> args, const Launch& launch) {
  const Slices slices = slice_channels<T>(args.stride);
  args.slice_channels = slices.channels;
  with_layout<T>(slices.channels, [&](auto layout) {
    using L = decltype(layout);
    static_assert(L::kTileBytes + sizeof(BinChunk<T, L>) <= 48 * 1024, "fits into static shared memory");
    const GridSize grid{args.images * ((args.pixels + L::kGroups - 1) / L::kGroups), slices.count, 1};
    launch(pool_backward<T, L>, grid, L::kTileBytes, args);
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
