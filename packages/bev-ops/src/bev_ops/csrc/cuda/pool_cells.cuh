// Lift-splat pooling on the GPU, forward, second step: the entries of every cell. See pool_runs.cuh.
#pragma once

#include "pool_tiles.cuh"

namespace bev_ops {

// One entry of a tile: where its row begins, in 16-byte pieces, and what it is multiplied with.
template <typename V>
struct TileEntry {
  int32_t piece = kNoEntry;  // of the sums of runs; the complement: of context
  V weight = V(0);
  int cell = 0;
};

// What the slots of a warp do with their shares of a list. Every lane looks up an entry of its slot; all lanes of the
// slot read its row.
template <typename T, int Packs, bool Runs>
class ShareSum {
  using Entry = TileEntry<SumOf<T>>;
  static constexpr int kTogether = Packs <= 2 ? 2 : 1;  // rows under way at a time
  static constexpr int kPieces = Runs ? sizeof(SumOf<T>) / sizeof(T) : 1;  // of 16 bytes, of a pack of sums

  const ForwardArgs<T>& args_;
  const TileList<T>& list_;
  const SampleView<T>& sample_;
  const Place place_;
  int base_, width_;
  LaneSums<T, Packs> sums_;

 public:
  __device__ ShareSum(const ForwardArgs<T>& args, const SampleView<T>& sample, const TileList<T>& list, int base)
      : args_(args), list_(list), sample_(sample), place_(args.shape), base_(base), width_(args.width_of_slice(base)) {}

  __device__ void run(SumOf<T>* sums) {
    const int first_slot = static_cast<int>(threadIdx.x) / kWarp * place_.slots, slot = first_slot + place_.slot;
    const int share = list_.share, total = list_.total(), end = (slot + 1) * share;
    const int last = place_.active() ? (end < total ? end : total) : 0, rest = total - first_slot * share;
    int left = share < rest ? share : rest;  // entries of a slot of this warp
    sums += slot * args_.shape.slice_channels;
    int cell = -1;
#pragma unroll 1
    for (int place = slot * share + place_.lane; left > 0; place += args_.shape.lanes, left -= args_.shape.lanes) {
      const Entry own = look_up(place, last);
      // What came before this may be read before the sums of runs are there.
      wait_for_previous();
#pragma unroll 1
      for (int k = 0; k < args_.shape.lanes && k < left; k += kTogether) {
        add(own, k, cell, sums);
      }
    }
    if (cell >= 0) {
      store(sums + cell * args_.shape.slice_channels);
    }
  }

 private:
  __device__ Entry look_up(int place, int last) const {
    Entry entry;
    if (place < last) {
      entry.cell = list_.cell_at(place, cells_of_block<T>(args_.shape));
      const int32_t number = list_.entry(args_, entry.cell, place);
      if (Runs && number >= 0) {
        entry.weight = SumOf<T>(1);
        entry.piece = number * row_pieces<SumOf<T>>() + first_piece<SumOf<T>>();
      } else {
        const auto point = static_cast<unsigned>(~number);
        entry.weight = static_cast<SumOf<T>>(sample_.depth[point]);
        entry.piece = ~(row_of(point) * row_pieces<T>() + first_piece<T>());
      }
    }
    return entry;
  }

  template <typename V>
  __device__ int row_pieces() const {
    return args_.stride / kPackSize<V>;
  }

  template <typename V>
  __device__ int first_piece() const {
    return base_ / kPackSize<V>;
  }

  __device__ int row_of(unsigned point) const {
    const unsigned image = args_.points_of_image.divide(point), pixels = args_.pixels_of_image.value;
    return static_cast<int>(image * pixels + point - args_.pixels_of_image.divide(point) * pixels);
  }

  // Adds some of the entries that the lanes of this slot have looked up. All lanes of the warp take part.
  __device__ void add(const Entry& own, int first, int& cell, SumOf<T>* sums) {
    Entry entry[kTogether];
    uint4 read[kTogether][Packs][kPieces];
    const int first_lane = static_cast<int>(threadIdx.x) % kWarp - place_.lane;
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      // Lanes without a slot read the last lanes' entries, which are none.
      const int place = first_lane + first + k, from = place < kWarp ? place : kWarp - 1;
      entry[k].piece = __shfl_sync(kAllLanes, own.piece, from, kWarp);
      entry[k].weight = __shfl_sync(kAllLanes, own.weight, from, kWarp);
      entry[k].cell = __shfl_sync(kAllLanes, own.cell, from, kWarp);
      if (first + k >= args_.shape.lanes) {
        entry[k].piece = kNoEntry;
      }
      begin_read(entry[k], read[k]);
    }
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      if (entry[k].piece != kNoEntry) {
        if (entry[k].cell != cell && cell >= 0) {
          store(sums + cell * args_.shape.slice_channels);
        }
        cell = entry[k].cell;
        add(entry[k], read[k]);
      }
    }
  }

  __device__ void begin_read(const Entry& entry, uint4 (&read)[Packs][kPieces]) const {
    const bool run = Runs && entry.piece >= 0;
    const auto* row = (run ? reinterpret_cast<const uint4*>(sample_.runs) + entry.piece
                           : reinterpret_cast<const uint4*>(sample_.context) + ~entry.piece);
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      const bool wanted = place_.channel<T>(pack) < width_ && entry.piece != kNoEntry;
      const uint4* source = row + (pack * args_.shape.lanes + place_.lane) * (run ? kPieces : 1);
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        read[pack][piece] = wanted && (run || piece == 0) ? source[piece] : uint4{};
      }
    }
  }

  __device__ void add(const Entry& entry, const uint4 (&read)[Packs][kPieces]) {
    const bool run = Runs && entry.piece >= 0;
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      SumOf<T> sums[kPackSize<T>];
      memcpy(sums, read[pack], sizeof(read[pack]));
      Pack<T> numbers;
      memcpy(&numbers, read[pack], sizeof(numbers));
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) {
        const SumOf<T> value = run ? sums[i] : static_cast<SumOf<T>>(numbers.values[i]);
        sums_.values[pack][i] = fused_multiply_add(entry.weight, value, sums_.values[pack][i]);
      }
    }
  }

  // Writes the sum, and begins another.
  __device__ void store(SumOf<T>* row) {
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
      if (place_.channel<T>(pack) < width_) {
        sums_.store(pack, row + place_.channel<T>(pack));
      }
    }
    sums_.clear();
  }
};

// The notes on the rows of sums of some neighbouring cells.
template <int Count>
struct alignas(Count * sizeof(int)) RowNotes {
  int rows[Count];
};

// One channel of some neighbouring cells: all first rows are read before the others, of which few cells have any.
template <int Count, typename V>
__device__ void add_rows_of(const RowNotes<Count>& notes, const V* sums, int pitch, V (&totals)[Count]) {
#pragma unroll
  for (int k = 0; k < Count; ++k) {
    totals[k] = notes.rows[k] > 0 ? sums[(notes.rows[k] & 0xffff) * pitch] : V(0);
  }
#pragma unroll
  for (int k = 0; k < Count; ++k) {
#pragma unroll 1
    for (int row = 1; row < notes.rows[k] >> 16; ++row) {
      totals[k] += sums[((notes.rows[k] & 0xffff) + row) * pitch];
    }
  }
}

template <typename T>
__device__ void write_rows(const ForwardArgs<T>& args, const CellTile& tile, const TileList<T>& list, int base,
                           int width, const SumOf<T>* sums) {
  const int pitch = args.shape.slice_channels;
  T* out = args.out + (static_cast<int64_t>(tile.sample) * args.cells_per_sample + tile.first) * args.channels + base;
  for (int i = threadIdx.x; i < pitch * tile.count; i += kThreads) {
    const int cell = args.slice_channels.divide(i), channel = i - cell * pitch;
    SumOf<T> total[1];
    add_rows_of(RowNotes<1>{list.rows[cell]}, sums + channel, pitch, total);
    if (channel < width && list.rows[cell] >= 0) {
      out[static_cast<int64_t>(cell) * args.channels + channel] = static_cast<T>(total[0]);
    }
  }
}

// Neighbouring threads take neighbouring channels, which lie in different banks of shared memory.
template <typename T>
__device__ void write_planes(const ForwardArgs<T>& args, const CellTile& tile, const TileList<T>& list, int base,
                             int width, const SumOf<T>* sums) {
  const int pitch = args.shape.slice_channels, parts = (tile.count + kPackSize<T> - 1) / kPackSize<T>;
  T* out = args.out + (static_cast<int64_t>(tile.sample) * args.channels + base) * args.cells_per_sample + tile.first;
  const bool aligned = args.cells_per_sample % kPackSize<T> == 0 && tile.first % kPackSize<T> == 0;
#pragma unroll 1
  for (int i = threadIdx.x; i < pitch * parts; i += kThreads) {
    const int part = args.slice_channels.divide(i), channel = i - part * pitch, cell = part * kPackSize<T>;
    if (channel >= width) {
      continue;
    }
    T* target = out + channel * args.cells_per_sample + cell;
    const auto notes = reinterpret_cast<const RowNotes<kPackSize<T>>*>(list.rows)[part];
    SumOf<T> totals[kPackSize<T>];
    add_rows_of(notes, sums + channel, pitch, totals);
    Pack<T> pack;
    bool whole = aligned;
#pragma unroll
    for (int k = 0; k < kPackSize<T>; ++k) {
      pack.values[k] = static_cast<T>(totals[k]);
      whole = whole && notes.rows[k] >= 0;
    }
    if (whole) {
      store_pack(target, pack);
      continue;
    }
#pragma unroll
    for (int k = 0; k < kPackSize<T>; ++k) {
      if (notes.rows[k] >= 0) {
        target[k] = pack.values[k];
      }
    }
  }
}

// Blocks of sum_cells that a multiprocessor should hold: as many as registers allow without spilling.
template <typename T, int Packs, bool Runs>
constexpr int kCellBlocks = Packs > 1 ? 1 : (Runs == (sizeof(T) == 2) ? 4 : 5) - kFewerBlocks;

template <typename T, int Packs, bool Runs>
__global__ void __launch_bounds__(kThreads, kCellBlocks<T, Packs, Runs>) sum_cells(ForwardArgs<T> args) {
  __shared__ TileList<T> list;
  SumOf<T>* sums = dynamic_shared<SumOf<T>>();
  const int base = blockIdx.y * args.shape.slice_channels;
  for (int turn = 0;; ++turn) {
    const CellTile tile = next_tile(args, turn);
    if (tile.count == 0) {
      return;
    }
    const SampleView<T> sample(args, tile.sample);
    if (threadIdx.x < kWarp) {
      list_tile(args, tile, sample.plan_sample * args.cells_per_sample + tile.first, list);
    }
    __syncthreads();
    if (list.total() > 0) {
      ShareSum<T, Packs, Runs>(args, sample, list, base).run(sums);
      __syncthreads();
    }
    const int left = args.channels - base, width = left < args.shape.slice_channels ? left : args.shape.slice_channels;
    args.channels_last ? write_rows(args, tile, list, base, width, sums)
                       : write_planes(args, tile, list, base, width, sums);
    if (!is_long_block(args.long_blocks)) {
      break;
    }
    __syncthreads();
  }
  // Blocks of tiles end after the kernel ahead of this one, even if they had no run to sum, and so does this kernel.
  wait_for_previous();
}

template <typename T, typename Launch>
void launch_sum_cells(ForwardArgs<T> args, const Launch& launch) {
  args.long_blocks = args.long_slots < kLongBlocks ? args.long_slots : kLongBlocks;
  const int cells = cells_of_block<T>(args.shape), slots = kWarps * args.shape.slots;
  args.tiles_of_sample = Divisor((args.cells_per_sample + cells - 1) / cells);
  args.slice_channels = Divisor(args.shape.slice_channels);
  const int64_t tiles = args.samples * args.tiles_of_sample.value;
  const size_t bytes = static_cast<size_t>(cells + slots) * args.shape.slice_channels * sizeof(SumOf<T>);
  with_packs<T>(args.shape.packs, [&](auto packs) {
    const GridSize grid{args.long_blocks + tiles, args.shape.slices, 1};
    // Without runs the kernel before may be any, which has written the tables of the plan.
    args.columns ? launch.overlapping(sum_cells<T, packs(), true>, grid, bytes, args)
                 : launch(sum_cells<T, packs(), false>, grid, bytes, args);
  });
}

}  // namespace bev_ops
