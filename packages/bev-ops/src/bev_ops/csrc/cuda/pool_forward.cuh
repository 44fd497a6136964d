// Lift-splat pooling on the GPU, forward.
//
// The points of one image column at one depth mostly fall into one cell. The plan knows the longest run of such points,
// and the sum is taken in two steps:
//   sum_runs   Blocks walk columns of the images. Context rows and weights are staged in shared memory once and serve
//              many depths; a thread sums four channels down the column for eight depths at a time and writes one row
//              of sums per column and depth. For 16 feature rows that replaces 16 scattered reads of context by one row
//              written and one read, and the tables of the plan shrink as much.
//   sum_cells  A slot of lanes owns a cell, adds its runs and the points that are in no run, and hands the result to its
//              block, which writes neighbouring cells in 32-byte pieces. Cells with many entries get a whole block each,
//              and those blocks start first.
// Every output has one writer and every sum one order: results are equal from run to run, and nothing is zeroed first.
#pragma once

#include "rows.cuh"

namespace bev_ops {

constexpr int kColumns = 4;  // image columns of a block of sum_runs
constexpr int kBins = 8;     // depths of a thread there
constexpr int kQuad = 4;     // channels of a thread there
constexpr int kStagedRows = 16;  // image rows in shared memory at a time
constexpr int kStagedPixels = kStagedRows * kColumns;
constexpr int kLongBlocks = 64;

template <typename T>
struct ForwardArgs {
  const T* depth;  // (images, bins, height, width)
  ImageView<T> context;
  const int32_t* entry_start;  // (2 * cells + 1)
  const int32_t* entries;
  const int32_t* column_runs;  // (images, bins, width)
  const int32_t* long_cells;
  SumOf<T>* runs;  // (images of this launch, bins, width, stride)
  T* out;          // (samples, channels, cells_per_sample), or channels last
  int64_t cells;   // of all samples
  int64_t cells_per_sample;
  int64_t first_sample, samples;  // of this launch
  int cameras, bins, height, width;
  int channels, stride;
  int long_cell, long_slots, long_blocks;
  bool channels_last;
  RowShape shape;
  Divisor points_of_image, pixels_of_image, columns_of_image;

  __device__ int64_t first_cell() const { return first_sample * cells_per_sample; }
  __device__ int64_t first_run() const { return first_sample * cameras * bins * width; }
  __device__ int width_of_slice(int base) const {
    const int left = stride - base;
    return left < shape.slice_channels ? left : shape.slice_channels;
  }
};

// ---- runs -------------------------------------------------------------------------------------------

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
  const int32_t* runs = args.column_runs + at * args.width + column;
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

// Four threads stage one pixel where rows of channels lie in one piece, without waiting for them; else neighbouring
// threads read neighbouring columns.
template <typename T>
__device__ void stage_context(const ForwardArgs<T>& args, const ColumnBlock& block, int first_row, int base,
                              const RunStage<T>& stage) {
  constexpr int kSharers = kThreads / kStagedPixels;
  const ImageView<T>& view = args.context;
  const int width = args.width_of_slice(base);
  const int pixel = view.packs ? threadIdx.x / kSharers : threadIdx.x % kStagedPixels;
  const int sharer = view.packs ? threadIdx.x % kSharers : threadIdx.x / kStagedPixels;
  const int row = first_row + pixel / kColumns, column = block.first_column + pixel % kColumns;
  T* target = stage.context + pixel * args.shape.slice_channels;
  const bool inside = row < args.height && column < args.width;
  const T* source = view.data + block.image * view.image + row * view.row + column * view.column + base * view.channel;
  if (view.packs) {
    for (int channel = sharer * kPackSize<T>; channel < width; channel += kSharers * kPackSize<T>) {
      if (inside) {
        __pipeline_memcpy_async(target + channel, source + channel, 16);
      } else {
        store_pack(target + channel, Pack<T>{});
      }
    }
    return;
  }
#pragma unroll 4
  for (int channel = sharer; channel < width; channel += kSharers) {
    target[channel] = inside && base + channel < args.channels ? source[channel * view.channel] : T(0);
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
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 3 - kFewerBlocks : sizeof(T) == 4 ? 2 : 1)
    sum_runs(ForwardArgs<T> args) {
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
  launch(sum_runs<T>, GridSize{blocks, args.shape.slices, 1}, RunStage<T>::bytes(args.shape), args);
}

// ---- cells ------------------------------------------------------------------------------------------

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
