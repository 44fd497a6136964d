// Lift-splat pooling on the CPU, forward and backward.
//
// Sums are vectorised over channels and threaded over cells (forward) or pixels (backward). Every output has one owner
// that adds its entries in the order of the plan, so the result does not depend on the number of threads. Sums are taken
// in float32 or float64; float16 and bfloat16 are converted on the way in and out.
#include "rows.h"
#include "simd.h"

namespace bev_ops {
namespace {

ScalarType sum_type(ScalarType type) { return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

Tensor converted(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

const int32_t* table_data(const Tensor& table) { return static_cast<const int32_t*>(table.data_ptr()); }

// ---- forward ------------------------------------------------------------------------------------

template <typename T>
struct ForwardArgs {
  PoolShape shape;
  const T* depth;
  Rows<T> context;
  const int32_t* entry_start;
  const int32_t* entries;
  const int32_t* column_runs;
  T* out;  // (B, C, Z, Y, X), or with the channels innermost
  bool channels_last;

  const T* row_of(int32_t point) const {
    const auto pixels = static_cast<uint32_t>(shape.pixels_per_image());
    const auto number = static_cast<uint32_t>(point);
    return context.row(static_cast<int64_t>(number / (static_cast<uint32_t>(shape.bins) * pixels)) * pixels +
                       number % pixels);
  }
};

// Entries of one cell.
struct CellEntries {
  int64_t runs, runs_end, points, points_end;

  CellEntries(const int32_t* entry_start, int64_t cells, int64_t cell)
      : runs(entry_start[cell]), runs_end(entry_start[cell + 1]), points(entry_start[cells + cell]),
        points_end(entry_start[cells + cell + 1]) {}

  bool empty() const { return runs == runs_end && points == points_end; }
};

// Sums `Width` channels down the run of one column at one depth.
template <int Width, typename T>
Simd<T, Width> sum_run(const ForwardArgs<T>& args, uint32_t column, int64_t channel) {
  const int64_t width = args.shape.width, pixels = args.shape.pixels_per_image();
  const uint32_t bin = column / static_cast<uint32_t>(width), image = bin / static_cast<uint32_t>(args.shape.bins);
  const int32_t run = args.column_runs[column], first = run & 0xffff, end = run >> 16;
  const int64_t pixel = first * width + column % static_cast<uint32_t>(width), step = width * args.context.stride;
  const T* weight = args.depth + bin * pixels + pixel;
  const T* row = args.context.row(image * pixels + pixel) + channel;
  auto sum = Simd<T, Width>::zero();
  for (int32_t i = 0; i < end - first; ++i) {
    sum.add_scaled(weight[i * width], Simd<T, Width>::load(row + i * step));
  }
  return sum;
}

// Sums `Width` channels of the entries of one cell.
template <int Width, typename T>
void sum_entries(const ForwardArgs<T>& args, const CellEntries& entries, int64_t channel, T* out) {
  auto sum = Simd<T, Width>::zero();
  for (int64_t i = entries.runs; i < entries.runs_end; ++i) {
    sum.add(sum_run<Width>(args, static_cast<uint32_t>(args.entries[i]), channel));
  }
  for (int64_t i = entries.points; i < entries.points_end; ++i) {
    const int32_t point = args.entries[i];
    sum.add_scaled(args.depth[point], Simd<T, Width>::load(args.row_of(point) + channel));
  }
  sum.store(out + channel);
}

template <typename T>
void sum_cell(const ForwardArgs<T>& args, int64_t cell, T* out) {
  const CellEntries entries(args.entry_start, args.shape.cells(), cell);
  if (entries.empty()) {
    std::fill(out, out + args.context.stride, T(0));
    return;
  }
  int64_t channel = 0;
  for (; channel + kWideBlock <= args.context.stride; channel += kWideBlock) {
    sum_entries<kWideBlock>(args, entries, channel, out);
  }
  for (; channel < args.context.stride; channel += kBlock) {
    sum_entries<kBlock>(args, entries, channel, out);
  }
}

template <typename T>
void pool_tile(const ForwardArgs<T>& args, int64_t tile, std::vector<T>& scratch) {
  const PoolShape& shape = args.shape;
  const int64_t tiles = (shape.cells_per_sample + kTile - 1) / kTile;
  const int64_t sample = tile / tiles, first = tile % tiles * kTile;
  const int64_t count = std::min(kTile, shape.cells_per_sample - first);
  for (int64_t i = 0; i < count; ++i) {
    sum_cell(args, sample * shape.cells_per_sample + first + i, scratch.data() + i * args.context.stride);
  }
  if (args.channels_last) {
    for (int64_t i = 0; i < count; ++i) {
      const T* row = scratch.data() + i * args.context.stride;
      std::copy(row, row + shape.channels, args.out + (sample * shape.cells_per_sample + first + i) * shape.channels);
    }
    return;
  }
  unpack_tile(scratch.data(), args.context.stride, shape.channels, shape.cells_per_sample, count,
              args.out + sample * shape.channels * shape.cells_per_sample + first);
}

// Ends of `parts` stretches of tiles with about the same work: a cell costs its entries and a little for itself, a run as
// much as half of its image column.
std::vector<int64_t> balanced_tiles(const int32_t* entry_start, const PoolShape& shape, int64_t parts) {
  const int64_t tiles_per_sample = (shape.cells_per_sample + kTile - 1) / kTile;
  const int64_t tiles = shape.samples * tiles_per_sample;
  const auto work_before = [&](int64_t tile) {
    const int64_t sample = tile / tiles_per_sample;
    const int64_t cell = sample * shape.cells_per_sample +
                         std::min(tile % tiles_per_sample * kTile, shape.cells_per_sample);
    const int64_t points = entry_start[shape.cells() + cell] - entry_start[shape.cells()];
    return entry_start[cell] * (shape.height / 2 + 1) + points + 2 * cell;
  };
  std::vector<int64_t> ends;
  for (int64_t part = 1; part <= parts; ++part) {
    const int64_t goal = work_before(tiles) / parts * part;
    int64_t low = ends.empty() ? 0 : ends.back(), high = tiles;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      (work_before(middle) < goal ? low : high) = work_before(middle) < goal ? middle + 1 : middle;
    }
    ends.push_back(part == parts ? tiles : low);
  }
  return ends;
}

template <typename T>
void pool_forward(const ForwardArgs<T>& args) {
  const int64_t parts = std::max<int64_t>(1, torch::stable::get_num_threads());
  const std::vector<int64_t> ends = balanced_tiles(args.entry_start, args.shape, parts);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(kTile * args.context.stride);
    for (int64_t tile = begin == 0 ? 0 : ends[begin - 1]; tile < ends[end - 1]; ++tile) {
      pool_tile(args, tile, scratch);
    }
  });
}

// ---- backward -----------------------------------------------------------------------------------

template <typename T>
struct BackwardArgs {
  PoolShape shape;
  Rows<T> grad;  // one row per cell
  const T* depth;
  Rows<T> context;
  const int32_t* cell_of_point;
  T* depth_grad;
  T* context_grad;  // (B, N, C, h, w)
};

// Adds one block of channels of one pixel: to the depth gradient of its bins, and writes its context gradient.
template <int Width, typename T>
void grade_block(const BackwardArgs<T>& args, int64_t image, int64_t pixel, int64_t channel, T* out) {
  const int64_t pixels = args.shape.pixels_per_image();
  const auto context = Simd<T, Width>::load(args.context.row(image * pixels + pixel) + channel);
  auto sum = Simd<T, Width>::zero();
  for (int64_t bin = 0; bin < args.shape.bins; ++bin) {
    const int64_t point = (image * args.shape.bins + bin) * pixels + pixel;
    const int32_t cell = args.cell_of_point[point];
    if (cell >= 0) {
      const auto grad = Simd<T, Width>::load(args.grad.row(cell) + channel);
      sum.add_scaled(args.depth[point], grad);
      args.depth_grad[point] += context.dot(grad);
    }
  }
  sum.store(out + channel);
}

template <typename T>
void grade_pixel(const BackwardArgs<T>& args, int64_t image, int64_t pixel, T* out) {
  int64_t channel = 0;
  for (; channel + kWideBlock <= args.context.stride; channel += kWideBlock) {
    grade_block<kWideBlock>(args, image, pixel, channel, out);
  }
  for (; channel < args.context.stride; channel += kBlock) {
    grade_block<kBlock>(args, image, pixel, channel, out);
  }
}

template <typename T>
void pool_backward(const BackwardArgs<T>& args) {
  const int64_t pixels = args.shape.pixels_per_image();
  const int64_t tiles = (pixels + kTile - 1) / kTile;
  torch::stable::parallel_for(0, args.shape.images() * tiles, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch(kTile * args.context.stride);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t image = tile / tiles, first = tile % tiles * kTile;
      const int64_t count = std::min(kTile, pixels - first);
      for (int64_t i = 0; i < count; ++i) {
        grade_pixel(args, image, first + i, scratch.data() + i * args.context.stride);
      }
      unpack_tile(scratch.data(), args.context.stride, args.shape.channels, pixels, count,
                  args.context_grad + image * args.shape.channels * pixels + first);
    }
  });
}

// ---- operators ----------------------------------------------------------------------------------

// The samples that go through one pass: all, or one after the other where they share the plan of one.
PoolShape shape_of_pass(PoolShape shape, int64_t plan_samples) {
  shape.samples = plan_samples;
  return shape;
}

template <typename T>
Rows<T> rows_from(const Rows<T>& rows, int64_t first) {
  return {rows.storage, rows.row(first), rows.stride};
}

template <typename T>
void run_forward(const PoolShape& shape, const PoolShape& pass, const Tensor& depth, const Tensor& context,
                 const Tensor& entry_start, const Tensor& entries, const Tensor& column_runs, const Tensor& out,
                 bool channels_last) {
  const Tensor weights = torch::stable::contiguous(depth);
  const Rows<T> rows = channel_rows<T>(context, 2);
  for (int64_t sample = 0; sample < shape.samples; sample += pass.samples) {
    const int64_t pixels = sample * shape.cameras * shape.pixels_per_image();
    pool_forward<T>({pass, static_cast<const T*>(weights.data_ptr()) + pixels * shape.bins, rows_from(rows, pixels),
                     table_data(entry_start), table_data(entries), table_data(column_runs),
                     static_cast<T*>(out.data_ptr()) + sample * shape.channels * shape.cells_per_sample,
                     channels_last});
  }
}

Tensor bev_pool(const Tensor& depth, const Tensor& context, const Tensor& entry_start, const Tensor& entries,
                const Tensor& column_runs, const Tensor& long_cells, const Tensor& cell_of_point,
                std::vector<int64_t> grid_size, int64_t long_cell, int64_t min_run, bool channels_last) {
  const PoolShape shape = pool_shape(depth, context, grid_size[0] * grid_size[1] * grid_size[2]);
  const PoolShape pass = shape_of_pass(shape, plan_samples(shape, cell_of_point));
  check_tables(shape, pass.samples, entry_start, entries, column_runs);
  const ScalarType type = sum_type(context.scalar_type());
  const Tensor out = pooled_like(context, grid_size, channels_last, type);
  const auto run = type == ScalarType::Double ? run_forward<double> : run_forward<float>;
  if (shape.samples > 0) {
    run(shape, pass, converted(depth, type), converted(context, type), entry_start, entries, column_runs, out,
        channels_last);
  }
  return converted(out, context.scalar_type());
}

template <typename T>
void run_backward(const PoolShape& shape, const PoolShape& pass, const Tensor& grad, const Tensor& depth,
                  const Tensor& context, const Tensor& cell_of_point, const Tensor& depth_grad,
                  const Tensor& context_grad) {
  const Tensor weights = torch::stable::contiguous(depth);
  const Rows<T> grad_rows = channel_rows<T>(grad, 1), rows = channel_rows<T>(context, 2);
  for (int64_t sample = 0; sample < shape.samples; sample += pass.samples) {
    const int64_t pixels = sample * shape.cameras * shape.pixels_per_image(), points = pixels * shape.bins;
    pool_backward<T>({pass, rows_from(grad_rows, sample * shape.cells_per_sample),
                      static_cast<const T*>(weights.data_ptr()) + points, rows_from(rows, pixels),
                      table_data(cell_of_point), static_cast<T*>(depth_grad.data_ptr()) + points,
                      static_cast<T*>(context_grad.data_ptr()) + pixels * shape.channels});
  }
}

std::tuple<Tensor, Tensor> bev_pool_backward(const Tensor& grad, const Tensor& depth, const Tensor& context,
                                             const Tensor& cell_of_point) {
  const PoolShape shape = pool_shape(depth, context, grad.size(2) * grad.size(3) * grad.size(4));
  const PoolShape pass = shape_of_pass(shape, plan_samples(shape, cell_of_point));
  const ScalarType type = sum_type(context.scalar_type());
  Tensor depth_grad = torch::stable::new_zeros(depth, depth.sizes(), type);
  Tensor context_grad = torch::stable::new_empty(context, context.sizes(), type);
  const auto run = type == ScalarType::Double ? run_backward<double> : run_backward<float>;
  if (shape.samples > 0) {
    run(shape, pass, converted(grad, type), converted(depth, type), converted(context, type), cell_of_point,
        depth_grad, context_grad);
  }
  return {converted(depth_grad, depth.scalar_type()), converted(context_grad, context.scalar_type())};
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CPU, m) {
  m.impl("bev_pool", TORCH_BOX(&bev_ops::bev_pool));
  m.impl("bev_pool_backward", TORCH_BOX(&bev_ops::bev_pool_backward));
}
