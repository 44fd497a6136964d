// Lift-splat pooling on the GPU, forward, second step: the entries of every cell. See pool_runs.cuh.
#pragma once

#include "pool_runs.cuh"

namespace bev_ops {

constexpr int kLongBlocks = 64;

template <typename T>
constexpr int kCellStep = 32 / static_cast<int>(sizeof(T));  // cells whose values of one channel are 32 bytes
constexpr int kFewEntries = 8;   // of a cell that one slot sums; a warp sums more
constexpr int kMaxCells = 64;    // of a block of sum_cells

// Cells of a block of sum_cells: no more than it has slots, in whole pieces of 32 bytes of output if there are so many.
template <typename T>
__host__ __device__ int cells_of_block(const RowShape& shape) {
  const int slots = kWarps * shape.slots;
  return slots < kCellStep<T> ? slots : slots / kCellStep<T> * kCellStep<T>;
}

// Where the entries of a cell stand in the list: its runs, and its points outside of runs.
struct CellEntries {
  int runs, runs_end, points, points_end;

  template <typename T>
  __device__ CellEntries(const ForwardArgs<T>& args, int64_t cell)
      : runs(args.entry_start[cell]), runs_end(args.entry_start[cell + 1]),
        points(args.entry_start[args.cells + cell]), points_end(args.entry_start[args.cells + cell + 1]) {}

  __device__ int count() const { return runs_end - runs + points_end - points; }
};

// The sum of one cell, or of a share of it, by one slot of lanes.
template <typename T, int Packs>
class CellSum {
  static constexpr int kTogether = Packs == 1 ? 3 : 4;  // entries of a list under way at a time

  const ForwardArgs<T>& args_;
  const Place& place_;
  int base_, width_;
  LaneSums<T, Packs> sums_;

 public:
  __device__ CellSum(const ForwardArgs<T>& args, const Place& place, int base)
      : args_(args), place_(place), base_(base), width_(args.width_of_slice(base)) {}

  // Adds every `sharers`-th entry, beginning with one of the first: all reads of a round are under way before the first
  // result is used.
  __device__ void add(const CellEntries& entries, int sharer, int sharers) {
    int run = entries.runs + sharer, point = entries.points + sharer;
    while (run < entries.runs_end || point < entries.points_end) {
      int listed_run[kTogether], listed_point[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k, run += sharers, point += sharers) {
        listed_run[k] = run < entries.runs_end ? args_.entries[run] : -1;
        listed_point[k] = point < entries.points_end ? args_.entries[point] : -1;
      }
      if (listed_run[0] >= 0) {
        add_runs(listed_run);
      }
      if (listed_point[0] >= 0) {
        add_points(listed_point);
      }
    }
  }

  __device__ void store(SumOf<T>* row) const {
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      if (place_.channel<T>(pack) < width_) {
        sums_.store(pack, row + place_.channel<T>(pack));
      }
    }
  }

  // The sum over the slots of a warp, in order. All lanes take part.
  __device__ void store_warp(SumOf<T>* row) const {
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) {
        const SumOf<T> total = place_.sum_slots(sums_.values[pack][i]);
        if (place_.slot == 0 && place_.channel<T>(pack) < width_) {
          row[place_.channel<T>(pack) + i] = total;
        }
      }
    }
  }

 private:
  __device__ void add_runs(const int (&run)[kTogether]) {
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      const int channel = place_.channel<T>(pack);
      if (channel < width_) {
        LaneSums<T, 1> rows[kTogether];
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          if (run[k] >= 0) {
            rows[k].load(args_.runs + (run[k] - args_.first_run()) * args_.stride + base_ + channel);
          }
        }
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          sums_.add(pack, rows[k]);
        }
      }
    }
  }

  __device__ void add_points(const int (&point)[kTogether]) {
    SumOf<T> weight[kTogether];
    int64_t offset[kTogether];
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      weight[k] = point[k] >= 0 ? static_cast<SumOf<T>>(args_.depth[point[k]]) : SumOf<T>(0);
      offset[k] = offset_of(point[k]);
    }
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      const int channel = place_.channel<T>(pack);
      if (channel < width_) {
        Pack<T> rows[kTogether];
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          rows[k] = point[k] >= 0 ? args_.context.pack_at(offset[k], base_ + channel) : Pack<T>{};
        }
#pragma unroll
        for (int k = 0; k < kTogether; ++k) {
          sums_.add_scaled(pack, weight[k], rows[k]);
        }
      }
    }
  }

  __device__ int64_t offset_of(int point) const {
    const auto number = static_cast<unsigned>(point);
    const unsigned image = args_.points_of_image.divide(number);
    const unsigned pixel = number - args_.pixels_of_image.divide(number) * args_.pixels_of_image.value;
    if (args_.context.packs) {
      return image * args_.context.image + pixel * args_.context.column;
    }
    const unsigned row = args_.columns_of_image.divide(pixel);
    return image * args_.context.image + row * args_.context.row +
           (pixel - row * args_.columns_of_image.value) * args_.context.column;
  }
};

// Where channel 0 of a cell goes, and how far apart channels lie.
template <typename T>
struct OutCell {
  T* data;
  int64_t step;

  __device__ OutCell(const ForwardArgs<T>& args, int64_t cell) {
    const int64_t sample = cell / args.cells_per_sample, local = cell % args.cells_per_sample;
    data = args.out + (args.channels_last ? cell * args.channels
                                          : sample * args.channels * args.cells_per_sample + local);
    step = args.channels_last ? 1 : args.cells_per_sample;
  }
};

// Cells of the list of long ones, by all slots of the block together; their sums are added in order.
template <typename T, int Packs>
__device__ void pool_long_cells(const ForwardArgs<T>& args, int base, SumOf<T>* tile) {
  const Place place(args.shape);
  const int left = args.channels - base, pitch = args.shape.slice_channels;
  const int width = left < pitch ? left : pitch, sharers = kWarps * place.slots;
  const int sharer = static_cast<int>(threadIdx.x) / kWarp * place.slots + place.slot;
  for (int i = blockIdx.x; i < args.long_slots && args.long_cells[i] >= 0; i += args.long_blocks) {
    const int64_t cell = args.long_cells[i];
    if (cell < args.first_cell() || cell >= args.first_cell() + args.samples * args.cells_per_sample) {
      continue;
    }
    if (place.active()) {
      CellSum<T, Packs> sum(args, place, base);
      sum.add(CellEntries(args, cell), sharer, sharers);
      sum.store(tile + sharer * pitch);
    }
    __syncthreads();
    const OutCell<T> out(args, cell);
    for (int channel = threadIdx.x; channel < width; channel += kThreads) {
      SumOf<T> total = 0;
      for (int row = 0; row < sharers; ++row) {
        total += tile[row * pitch + channel];
      }
      out.data[(base + channel) * out.step] = static_cast<T>(total);
    }
    __syncthreads();
  }
}

// Neighbouring cells of one sample.
struct CellTile {
  int64_t first;
  int count;

  template <typename T>
  __device__ CellTile(const ForwardArgs<T>& args, int64_t block) {
    const int most = cells_of_block<T>(args.shape);
    const int64_t blocks_per_sample = (args.cells_per_sample + most - 1) / most;
    const int64_t local = block % blocks_per_sample * most;
    first = (args.first_sample + block / blocks_per_sample) * args.cells_per_sample + local;
    count = static_cast<int>(args.cells_per_sample - local < most ? args.cells_per_sample - local : most);
  }
};

// What a block notes of its cells.
struct TileNotes {
  bool mine[kMaxCells];  // not in the list of long cells
  int more[kMaxCells];   // cells with more entries than one slot should sum, in any order
  int more_count;
};

// A tile from shared memory to the output; long cells are left to others.
template <typename T>
__device__ void write_tile(const ForwardArgs<T>& args, const CellTile& tile, const TileNotes& notes, int base,
                           const SumOf<T>* sums) {
  const int left = args.channels - base, pitch = args.shape.slice_channels;
  const int width = left < pitch ? left : pitch;
  const OutCell<T> out(args, tile.first);
  if (args.channels_last) {
    for (int i = threadIdx.x; i < width * tile.count; i += kThreads) {
      const int channel = i % width, cell = i / width;
      if (notes.mine[cell]) {
        out.data[static_cast<int64_t>(cell) * args.channels + base + channel] =
            static_cast<T>(sums[cell * pitch + channel]);
      }
    }
    return;
  }
  const bool aligned = args.cells_per_sample % kPackSize<T> == 0;
  const int parts = cells_of_block<T>(args.shape) / kPackSize<T>;
  // Neighbouring threads take neighbouring channels, which lie in different banks of shared memory.
  for (int i = threadIdx.x; i < width * parts; i += kThreads) {
    const int channel = i % width, cell = i / width * kPackSize<T>;
    T* target = out.data + (base + channel) * out.step + cell;
    Pack<T> pack;
    bool mine[kPackSize<T>];
    bool whole = aligned;
#pragma unroll
    for (int k = 0; k < kPackSize<T>; ++k) {
      mine[k] = cell + k < tile.count && notes.mine[cell + k];
      pack.values[k] = static_cast<T>(mine[k] ? sums[(cell + k) * pitch + channel] : SumOf<T>(0));
      whole = whole && mine[k];
    }
    if (whole) {
      store_pack(target, pack);
      continue;
    }
#pragma unroll
    for (int k = 0; k < kPackSize<T>; ++k) {
      if (mine[k]) {
        target[k] = pack.values[k];
      }
    }
  }
}

// Every slot takes one cell, and sums it if it has few entries.
template <typename T, int Packs>
__device__ void pool_few(const ForwardArgs<T>& args, const Place& place, const CellTile& tile, int base, SumOf<T>* sums,
                         TileNotes& notes) {
  const int cell = static_cast<int>(threadIdx.x) / kWarp * place.slots + place.slot;
  if (!place.active() || cell >= tile.count) {
    return;
  }
  const CellEntries entries(args, tile.first + cell);
  const int count = entries.count();
  if (place.lane == 0) {
    notes.mine[cell] = count <= args.long_cell;
    if (count > kFewEntries && count <= args.long_cell) {
      notes.more[atomicAdd(&notes.more_count, 1)] = cell;
    }
  }
  if (count <= kFewEntries) {
    CellSum<T, Packs> sum(args, place, base);
    sum.add(entries, 0, 1);
    sum.store(sums + cell * args.shape.slice_channels);
  }
}

template <typename T, int Packs>
__device__ void pool_cells(const ForwardArgs<T>& args, int64_t block, int base, SumOf<T>* sums) {
  __shared__ TileNotes notes;
  const CellTile tile(args, block);
  const Place place(args.shape);
  if (threadIdx.x == 0) {
    notes.more_count = 0;
  }
  __syncthreads();
  pool_few<T, Packs>(args, place, tile, base, sums, notes);
  __syncthreads();
  for (int i = threadIdx.x / kWarp; i < notes.more_count; i += kWarps) {
    CellSum<T, Packs> sum(args, place, base);
    if (place.active()) {
      sum.add(CellEntries(args, tile.first + notes.more[i]), place.slot, place.slots);
    }
    sum.store_warp(sums + notes.more[i] * args.shape.slice_channels);
  }
  __syncthreads();
  write_tile(args, tile, notes, base, sums);
}

template <typename T, int Packs>
__global__ void __launch_bounds__(kThreads, Packs == 1 ? 4 - kFewerBlocks : 1) sum_cells(ForwardArgs<T> args) {
  SumOf<T>* sums = dynamic_shared<SumOf<T>>();
  const int base = blockIdx.y * args.shape.slice_channels;
  const int64_t block = static_cast<int64_t>(blockIdx.x) - args.long_blocks;
  if (block < 0) {
    pool_long_cells<T, Packs>(args, base, sums);
  } else {
    pool_cells<T, Packs>(args, block, base, sums);
  }
}

template <typename T, typename Launch>
void launch_sum_cells(ForwardArgs<T> args, const Launch& launch) {
  args.long_blocks = args.long_slots < kLongBlocks ? args.long_slots : kLongBlocks;
  const int cells = cells_of_block<T>(args.shape), sharers = kWarps * args.shape.slots;
  const int64_t tiles = args.samples * ((args.cells_per_sample + cells - 1) / cells);
  const size_t rows = cells > sharers ? cells : sharers;
  const size_t bytes = rows * args.shape.slice_channels * sizeof(SumOf<T>);
  with_packs<T>(args.shape.packs, [&](auto packs) {
    launch(sum_cells<T, packs()>, GridSize{args.long_blocks + tiles, args.shape.slices, 1}, bytes, args);
  });
}

}  // namespace bev_ops
