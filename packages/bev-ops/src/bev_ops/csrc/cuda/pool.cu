// Operators of lift-splat pooling on CUDA devices.
#include "launch.h"
#include "pool_backward.cuh"
#include "pool_cells.cuh"

#include <algorithm>


namespace bev_ops {
namespace {

// Launches kernels of this file on the current stream of a tensor's device.
class Launcher {
  cudaStream_t stream_;

 public:
  explicit Launcher(const Tensor& tensor) : stream_(current_stream(tensor)) {}

  template <typename Args>
  void operator()(void (*kernel)(Args), GridSize grid, size_t shared_bytes, const Args& args) const {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
      return;
    }
    STD_TORCH_CHECK(grid.x <= INT32_MAX, "too many cells or pixels for one launch: ", grid.x, " blocks");
    STD_TORCH_CHECK(shared_bytes <= 48 * 1024, "a block asks for ", shared_bytes, " bytes of shared memory");
    const dim3 blocks(static_cast<unsigned>(grid.x), grid.y, grid.z);
    kernel<<<blocks, kThreads, shared_bytes, stream_>>>(args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// Rows of channels of a tensor; without a copy where memory already is so.
struct Rows {
  Tensor storage;
  int stride;
};

template <typename T>
bool has_channel_rows(const Tensor& tensor, int64_t channel_dim) {
  return padded_channels(tensor.size(channel_dim)) == tensor.size(channel_dim) &&
         reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0 && is_channels_last(tensor, channel_dim);
}

template <typename T>
Rows channel_rows(const Tensor& tensor, int64_t channel_dim, const Launcher& launch) {
  const int64_t channels = tensor.size(channel_dim);
  const int stride = padded_channels(channels);
  if (has_channel_rows<T>(tensor, channel_dim)) {
    return {tensor, stride};
  }
  const Tensor source = torch::stable::contiguous(tensor);
  int64_t outer = 1, inner = 1;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    (dim < channel_dim ? outer : inner) *= dim == channel_dim ? 1 : tensor.size(dim);
  }
  const Tensor rows = empty_on(tensor, {outer * inner, stride}, tensor.scalar_type());
  launch_pack_rows(PackRowsArgs<T>{const_data<T>(source), data<T>(rows), outer, inner, static_cast<int>(channels), stride},
                   launch);
  return {rows, stride};
}

// Context as it lies in memory, where no kernel reads scattered points of it; else as rows.
template <typename T>
ImageView<T> image_view(const Tensor& context, const Rows* rows) {
  const int channels = static_cast<int>(context.size(2));
  if (rows != nullptr) {
    const int64_t stride = rows->stride, width = context.size(4);
    return {const_data<T>(rows->storage), context.size(3) * width * stride, 1, width * stride, stride, channels, true};
  }
  return {const_data<T>(context), context.stride(1), context.stride(2), context.stride(3), context.stride(4), channels,
          false};
}

bool can_view(const Tensor& context) {
  return context.size(0) == 1 || context.stride(0) == context.size(1) * context.stride(1);
}

// Bytes of run sums that one pass over some samples may take: so much stays in the second-level cache of a large GPU.
constexpr int64_t kRunBytes = 32 << 20;

template <typename T>
void run_forward(ForwardArgs<T> args, const Tensor& context, bool columns, const Launcher& launch) {
  const int64_t samples = context.size(0), runs = columns ? int64_t{args.cameras} * args.bins * args.width : 0;
  const int64_t bytes = runs * args.stride * sizeof(SumOf<T>);
  const int64_t at_once = std::min(samples, bytes > 0 ? std::max<int64_t>(1, kRunBytes / bytes) : samples);
  constexpr ScalarType kSum = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor memory = empty_on(context, {runs * at_once, args.stride}, kSum);
  args.runs = data<SumOf<T>>(memory);
  for (args.first_sample = 0; args.first_sample < samples; args.first_sample += args.samples) {
    args.samples = std::min(at_once, samples - args.first_sample);
    if (columns) {
      launch_sum_runs(args, launch);
    }
    launch_sum_cells(args, launch);
  }
}

Tensor bev_pool(const Tensor& depth, const Tensor& context, const Tensor& entry_start, const Tensor& entries,
                const Tensor& column_runs, const Tensor& long_cells, const Tensor& cell_of_point,
                std::vector<int64_t> grid_size, int64_t long_cell, int64_t min_run, bool channels_last) {
  const PoolShape shape = pool_shape(depth, context, grid_size[0] * grid_size[1] * grid_size[2]);
  check_table(entry_start, 2 * shape.cells() + 1, "entry_start");
  check_table(column_runs, shape.columns(), "column_runs");
  check_table(entries, shape.columns() + depth.numel(), "entries");
  check_table(long_cells, long_cell_slots(entries.numel(), long_cell), "long_cells");
  const torch::stable::accelerator::DeviceGuard guard(depth.get_device_index());
  const Launcher launch(depth);
  const Tensor out = pooled_like(context, grid_size, channels_last, context.scalar_type());
  const Tensor weights = torch::stable::contiguous(depth);
  // Runs are as long as min_run: a feature map with fewer rows has none.
  const bool columns = min_run <= shape.height;
  with_type(context.scalar_type(), "depth and context", [&](auto type) {
    using T = decltype(type);
    const bool viewed = columns && can_view(context) && !has_channel_rows<T>(context, 2);
    const Rows rows = viewed ? Rows{context, 0} : channel_rows<T>(context, 2, launch);
    ForwardArgs<T> args{};
    args.depth = const_data<T>(weights);
    args.context = image_view<T>(context, viewed ? nullptr : &rows);
    args.entry_start = const_data<int32_t>(entry_start);
    args.entries = const_data<int32_t>(entries);
    args.column_runs = const_data<int32_t>(column_runs);
    args.long_cells = const_data<int32_t>(long_cells);
    args.out = data<T>(out);
    args.cells = shape.cells();
    args.cells_per_sample = shape.cells_per_sample;
    args.cameras = static_cast<int>(shape.cameras);
    args.bins = static_cast<int>(shape.bins);
    args.height = static_cast<int>(shape.height);
    args.width = static_cast<int>(shape.width);
    args.channels = static_cast<int>(shape.channels);
    args.stride = padded_channels(shape.channels);
    args.long_cell = static_cast<int>(long_cell);
    args.long_slots = static_cast<int>(long_cells.numel());
    args.channels_last = channels_last;
    args.shape = row_shape<T>(args.stride);
    args.points_of_image = Divisor(shape.bins * shape.pixels_per_image());
    args.pixels_of_image = Divisor(shape.pixels_per_image());
    args.columns_of_image = Divisor(shape.width);
    if (shape.channels > 0 && shape.samples > 0) {
      run_forward(args, context, columns && depth.numel() > 0, launch);
    }
  });
  return out;
}

template <typename T>
void run_backward(const PoolShape& shape, const Tensor& grad, const Tensor& weights, const Tensor& context,
                  const Tensor& cell_of_point, const Tensor& depth_grad, const Tensor& context_grad,
                  const Launcher& launch) {
  const Rows grad_rows = channel_rows<T>(grad, 1, launch), rows = channel_rows<T>(context, 2, launch);
  const int slices = row_shape<T>(rows.stride).slices;
  constexpr ScalarType kSum = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor partial = empty_on(depth_grad, {slices > 1 ? slices * depth_grad.numel() : 0}, kSum);
  BackwardArgs<T> args{};
  args.grad_rows = const_data<T>(grad_rows.storage);
  args.depth = const_data<T>(weights);
  args.rows = const_data<T>(rows.storage);
  args.cell_of_point = const_data<int32_t>(cell_of_point);
  args.depth_grad = data<T>(depth_grad);
  args.partial = slices > 1 ? data<SumOf<T>>(partial) : nullptr;
  args.context_grad = data<T>(context_grad);
  args.images = shape.images();
  args.bins = static_cast<int>(shape.bins);
  args.height = static_cast<int>(shape.height);
  args.width = static_cast<int>(shape.width);
  args.channels = static_cast<int>(shape.channels);
  args.stride = rows.stride;
  launch_backward(args, launch);
  if (slices > 1) {
    launch_sum_slices(SumSlicesArgs<T>{args.partial, args.depth_grad, depth_grad.numel(), slices}, launch);
  }
}

std::tuple<Tensor, Tensor> bev_pool_backward(const Tensor& grad, const Tensor& depth, const Tensor& context,
                                             const Tensor& cell_of_point) {
  const PoolShape shape = pool_shape(depth, context, grad.size(2) * grad.size(3) * grad.size(4));
  check_table(cell_of_point, depth.numel(), "cell_of_point");
  const torch::stable::accelerator::DeviceGuard guard(depth.get_device_index());
  const Launcher launch(depth);
  const Tensor weights = torch::stable::contiguous(depth);
  const Tensor depth_grad = torch::stable::new_empty(depth, depth.sizes());
  const Tensor context_grad = torch::stable::new_empty(context, context.sizes());
  with_type(context.scalar_type(), "depth and context", [&](auto type) {
    run_backward<decltype(type)>(shape, grad, weights, context, cell_of_point, depth_grad, context_grad, launch);
  });
  return {depth_grad, context_grad};
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CUDA, m) {
  m.impl("bev_pool", TORCH_BOX(&bev_ops::bev_pool));
  m.impl("bev_pool_backward", TORCH_BOX(&bev_ops::bev_pool_backward));
}
