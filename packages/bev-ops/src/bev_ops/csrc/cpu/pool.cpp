// Lift-splat pooling on the CPU, forward and backward.
//
// Sums are vectorised over channels and threaded over cells (forward) or pixels (backward). Every output has one owner
// that adds its points in the order of the plan, so the result does not depend on the number of threads. Sums are taken
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
  const int32_t* cell_start;
  const int32_t* point_depth;
  const int32_t* point_pixel;
  T* out;  // (B, C, Z, Y, X)
};

// Sums `Width` channels of the points of one cell.
template <int Width, typename T>
void sum_points(const ForwardArgs<T>& args, int64_t begin, int64_t end, int64_t channel, T* out) {
  auto sum = Simd<T, Width>::zero();
  for (int64_t p = begin; p < end; ++p) {
    sum.add_scaled(args.depth[args.point_depth[p]],
                   Simd<T, Width>::load(args.context.row(args.point_pixel[p]) + channel));
  }
  sum.store(out + channel);
}

template <typename T>
void sum_cell(const ForwardArgs<T>& args, int64_t cell, T* out) {
  const int64_t begin = args.cell_start[cell], end = args.cell_start[cell + 1];
  if (begin == end) {
    std::fill(out, out + args.context.stride, T(0));
    return;
  }
  int64_t channel = 0;
  for (; channel + kWideBlock <= args.context.stride; channel += kWideBlock) {
    sum_points<kWideBlock>(args, begin, end, channel, out);
  }
  for (; channel < args.context.stride; channel += kBlock) {
    sum_points<kBlock>(args, begin, end, channel, out);
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
  unpack_tile(scratch.data(), args.context.stride, shape.channels, shape.cells_per_sample, count,
              args.out + sample * shape.channels * shape.cells_per_sample + first);
}

// Ends of `parts` runs of tiles with about the same work: a cell costs its points and a little for itself.
std::vector<int64_t> balanced_tiles(const int32_t* cell_start, const PoolShape& shape, int64_t parts) {
  const int64_t tiles_per_sample = (shape.cells_per_sample + kTile - 1) / kTile;
  const int64_t tiles = shape.samples * tiles_per_sample;
  const auto work_before = [&](int64_t tile) {
    const int64_t sample = tile / tiles_per_sample;
    const int64_t cell = sample * shape.cells_per_sample +
                         std::min(tile % tiles_per_sample * kTile, shape.cells_per_sample);
    return cell_start[cell] + 2 * cell;
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
  const std::vector<int64_t> ends = balanced_tiles(args.cell_start, args.shape, parts);
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

template <typename T>
void run_forward(const PoolShape& shape, const Tensor& depth, const Tensor& context, const Tensor& cell_start,
                 const Tensor& point_depth, const Tensor& point_pixel, const Tensor& out) {
  const Tensor weights = torch::stable::contiguous(depth);
  pool_forward<T>({shape, static_cast<const T*>(weights.data_ptr()), channel_rows<T>(context, 2),
                   table_data(cell_start), table_data(point_depth), table_data(point_pixel),
                   static_cast<T*>(out.data_ptr())});
}

Tensor bev_pool(const Tensor& depth, const Tensor& context, const Tensor& cell_start, const Tensor& point_depth,
                const Tensor& point_pixel, const Tensor& long_cells, const Tensor& cell_of_point,
                std::vector<int64_t> grid_size, int64_t long_cell) {
  const PoolShape shape = pool_shape(depth, context, grid_size[0] * grid_size[1] * grid_size[2]);
  check_table(cell_start, shape.cells() + 1, "cell_start");
  check_table(point_depth, depth.numel(), "point_depth");
  check_table(point_pixel, depth.numel(), "point_pixel");
  const ScalarType type = sum_type(context.scalar_type());
  Tensor out = empty_on(context, {shape.samples, shape.channels, grid_size[2], grid_size[1], grid_size[0]}, type);
  const auto run = type == ScalarType::Double ? run_forward<double> : run_forward<float>;
  run(shape, converted(depth, type), converted(context, type), cell_start, point_depth, point_pixel, out);
  return converted(out, context.scalar_type());
}

template <typename T>
void run_backward(const PoolShape& shape, const Tensor& grad, const Tensor& depth, const Tensor& context,
                  const Tensor& cell_of_point, const Tensor& depth_grad, const Tensor& context_grad) {
  const Tensor weights = torch::stable::contiguous(depth);
  pool_backward<T>({shape, channel_rows<T>(grad, 1), static_cast<const T*>(weights.data_ptr()),
                    channel_rows<T>(context, 2), table_data(cell_of_point), static_cast<T*>(depth_grad.data_ptr()),
                    static_cast<T*>(context_grad.data_ptr())});
}

std::tuple<Tensor, Tensor> bev_pool_backward(const Tensor& grad, const Tensor& depth, const Tensor& context,
                                             const Tensor& cell_of_point) {
  const PoolShape shape = pool_shape(depth, context, grad.size(2) * grad.size(3) * grad.size(4));
  check_table(cell_of_point, depth.numel(), "cell_of_point");
  const ScalarType type = sum_type(context.scalar_type());
  Tensor depth_grad = torch::stable::new_zeros(depth, depth.sizes(), type);
  Tensor context_grad = torch::stable::new_empty(context, context.sizes(), type);
  const auto run = type == ScalarType::Double ? run_backward<double> : run_backward<float>;
  run(shape, converted(grad, type), converted(depth, type), converted(context, type), cell_of_point, depth_grad,
      context_grad);
  return {converted(depth_grad, depth.scalar_type()), converted(context_grad, context.scalar_type())};
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CPU, m) {
  m.impl("bev_pool", TORCH_BOX(&bev_ops::bev_pool));
  m.impl("bev_pool_backward", TORCH_BOX(&bev_ops::bev_pool_backward));
}
