// Operators of lift-splat pooling on CUDA devices.
#include "launch.h"
#include "pool_kernels.cuh"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

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
    const dim3 blocks(static_cast<unsigned>(grid.x), grid.y, grid.z);
    kernel<<<blocks, kThreads, shared_bytes, stream_>>>(args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// Calls `body` with a value of the C++ type of a tensor.
template <typename Body>
void with_type(ScalarType type, const Body& body) {
  switch (type) {
    case ScalarType::Half:
      return body(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return body(torch::headeronly::BFloat16{});
    case ScalarType::Float:
      return body(float{});
    case ScalarType::Double:
      return body(double{});
    default:
      STD_TORCH_CHECK(false, "bev_pool takes float16, bfloat16, float32 or float64");
  }
}

// Rows of channels of a tensor; without a copy where memory already is so.
struct Rows {
  Tensor storage;
  int stride;
};

template <typename T>
Rows channel_rows(const Tensor& tensor, int64_t channel_dim, const Launcher& launch) {
  const int64_t channels = tensor.size(channel_dim);
  const int64_t stride = (channels + kPackSize<T> - 1) / kPackSize<T> * kPackSize<T>;
  const bool aligned = reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 16 == 0;
  if (stride == channels && aligned && is_channels_last(tensor, channel_dim)) {
    return {tensor, static_cast<int>(stride)};
  }
  const Tensor source = torch::stable::contiguous(tensor);
  int64_t outer = 1, inner = 1;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    (dim < channel_dim ? outer : inner) *= dim == channel_dim ? 1 : tensor.size(dim);
  }
  const Tensor rows = empty_on(tensor, {outer * inner, stride}, tensor.scalar_type());
  launch_pack_rows(PackRowsArgs<T>{const_data<T>(source), data<T>(rows), outer, inner, static_cast<int>(channels),
                                   static_cast<int>(stride)},
                   launch);
  return {rows, static_cast<int>(stride)};
}

Tensor bev_pool(const Tensor& depth, const Tensor& context, const Tensor& cell_start, const Tensor& point_depth,
                const Tensor& point_pixel, const Tensor& long_cells, const Tensor& cell_of_point,
                std::vector<int64_t> grid_size, int64_t long_cell) {
  const PoolShape shape = pool_shape(depth, context, grid_size[0] * grid_size[1] * grid_size[2]);
  check_table(cell_start, shape.cells() + 1, "cell_start");
  check_table(point_depth, depth.numel(), "point_depth");
  check_table(point_pixel, depth.numel(), "point_pixel");
  check_table(long_cells, long_cell_slots(depth.numel(), long_cell), "long_cells");
  const torch::stable::accelerator::DeviceGuard guard(depth.get_device_index());
  const Launcher launch(depth);
  const Tensor out = empty_on(context, {shape.samples, shape.channels, grid_size[2], grid_size[1], grid_size[0]},
                              context.scalar_type());
  const Tensor weights = torch::stable::contiguous(depth);
  with_type(context.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const Rows rows = channel_rows<T>(context, 2, launch);
    ForwardArgs<T> args{};
    args.depth = const_data<T>(weights);
    args.rows = const_data<T>(rows.storage);
    args.cell_start = const_data<int32_t>(cell_start);
    args.point_depth = const_data<int32_t>(point_depth);
    args.point_pixel = const_data<int32_t>(point_pixel);
    args.long_cells = const_data<int32_t>(long_cells);
    args.out = data<T>(out);
    args.samples = shape.samples;
    args.cells_per_sample = shape.cells_per_sample;
    args.channels = static_cast<int>(shape.channels);
    args.stride = rows.stride;
    args.long_cell = static_cast<int>(long_cell);
    args.long_slots = static_cast<int>(long_cells.numel());
    if (shape.channels > 0) {
      launch_forward(args, launch);
    }
  });
  return out;
}

template <typename T>
void run_backward(const PoolShape& shape, const Tensor& grad, const Tensor& weights, const Tensor& context,
                  const Tensor& cell_of_point, const Tensor& depth_grad, const Tensor& context_grad,
                  const Launcher& launch) {
  const Rows grad_rows = channel_rows<T>(grad, 1, launch), rows = channel_rows<T>(context, 2, launch);
  const int slices = slice_channels<T>(rows.stride).count;
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
  args.pixels = shape.pixels_per_image();
  args.bins = static_cast<int>(shape.bins);
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
  with_type(context.scalar_type(), [&](auto type) {
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
