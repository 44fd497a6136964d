// Operators of lift-splat pooling on CUDA devices.
#include "launch.h"
#include "pool_backward.cuh"
#include "pool_cells.cuh"
#include "pool_products.cuh"

#include <algorithm>
#include <array>
#include <atomic>


namespace bev_ops {
namespace {

// The compute capability, times ten, for which the code was compiled that runs on a device.
int compiled_arch(int device) {
  static std::array<std::atomic<int>, 64> known{};
  std::atomic<int>& arch = known[device % known.size()];
  if (arch == 0 || device >= static_cast<int>(known.size())) {
    cudaFuncAttributes attributes;
    STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, sum_cells<float, 1, true>));
    arch = attributes.ptxVersion;
  }
  return arch;
}

// Launches kernels of this file on the current stream of a tensor's device.
class Launcher {
  cudaStream_t stream_;
  int arch_;

 public:
  explicit Launcher(const Tensor& tensor)
      : stream_(current_stream(tensor)), arch_(compiled_arch(tensor.get_device_index())) {}

  bool has_products() const { return arch_ >= 80; }

  template <typename Args>
  void operator()(void (*kernel)(Args), GridSize grid, size_t shared_bytes, const Args& args) const {
    run(kernel, grid, shared_bytes, args, false);
  }

  // Lets the kernel start while the one before it ends: it calls wait_for_previous itself.
  template <typename Args>
  void overlapping(void (*kernel)(Args), GridSize grid, size_t shared_bytes, const Args& args) const {
    run(kernel, grid, shared_bytes, args, arch_ >= 90);
  }

 private:
  template <typename Args>
  void run(void (*kernel)(Args), GridSize grid, size_t shared_bytes, const Args& args, bool overlaps) const {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
      return;
    }
    STD_TORCH_CHECK(grid.x <= INT32_MAX, "too many cells or pixels for one launch: ", grid.x, " blocks");
    STD_TORCH_CHECK(shared_bytes <= 48 * 1024, "a block asks for ", shared_bytes, " bytes of shared memory");
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(grid.x), grid.y, grid.z);
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    config.attrs = &attribute;
    config.numAttrs = overlaps ? 1 : 0;
    STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args));
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

// Bytes of run sums that one pass over some samples may take: so much stays in the second-level cache of a large GPU.
constexpr int64_t kRunBytes = 32 << 20;

template <typename T>
void sum_columns(const ForwardArgs<T>& args, const Launcher& launch) {
  if constexpr (sizeof(T) == 2) {
    if (launch.has_products()) {
      launch_multiply_runs(args, launch);
      return;
    }
  }
  launch_sum_runs(args, launch);
}

// Kernels count the 16-byte pieces of context and of sums of runs in 32 bits.
template <typename T>
void check_size(const ForwardArgs<T>& args, int64_t images) {
  const int64_t pixels = images * args.height * args.width, runs = args.columns ? images * args.bins * args.width : 0;
  const int64_t pieces = std::max(pixels / kPackSize<T>, runs / kPackSize<SumOf<T>>) * args.stride;
  STD_TORCH_CHECK(pieces < INT32_MAX, "context of ", images, " images of ", args.height, "x", args.width,
                  " pixels and ", args.channels, " channels is too large for one call: split the batch");
}

template <typename T>
void run_forward(ForwardArgs<T> args, const Tensor& context, const Launcher& launch) {
  const int64_t samples = context.size(0), runs = args.columns ? int64_t{args.cameras} * args.bins * args.width : 0;
  const int64_t bytes = runs * args.stride * sizeof(SumOf<T>);
  const int64_t at_once = std::min(samples, bytes > 0 ? std::max<int64_t>(1, kRunBytes / bytes) : samples);
  constexpr ScalarType kSum = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor memory = empty_on(context, {runs * at_once, args.stride}, kSum);
  args.runs = data<SumOf<T>>(memory);
  for (args.first_sample = 0; args.first_sample < samples; args.first_sample += args.samples) {
    args.samples = std::min(at_once, samples - args.first_sample);
    if (args.columns) {
      sum_columns(args, launch);
    }
    launch_sum_cells(args, launch);
  }
}

// Sizes and tables of a call; its inputs and outputs are left to the caller.
template <typename T>
ForwardArgs<T> forward_args(const PoolShape& shape, int64_t plan_samples, const Tensor& entry_start,
                            const Tensor& entries, const Tensor& column_runs, const Tensor& long_cells) {
  ForwardArgs<T> args{};
  args.entry_start = const_data<int32_t>(entry_start);
  args.entries = const_data<int32_t>(entries);
  args.column_runs = const_data<int32_t>(column_runs);
  args.long_cells = const_data<int32_t>(long_cells);
  args.cells = plan_samples * shape.cells_per_sample;
  args.cells_per_sample = shape.cells_per_sample;
  args.one_plan = plan_samples < shape.samples;
  args.cameras = static_cast<int>(shape.cameras);
  args.bins = static_cast<int>(shape.bins);
  args.height = static_cast<int>(shape.height);
  args.width = static_cast<int>(shape.width);
  args.channels = static_cast<int>(shape.channels);
  args.stride = padded_channels(shape.channels);
  args.long_slots = static_cast<int>(long_cells.numel());
  args.shape = row_shape<T>(args.stride);
  args.points_of_image = Divisor(shape.bins * shape.pixels_per_image());
  args.pixels_of_image = Divisor(shape.pixels_per_image());
  return args;
}

Tensor bev_pool(const Tensor& depth, const Tensor& context, const Tensor& entry_start, const Tensor& entries,
                const Tensor& column_runs, const Tensor& long_cells, const Tensor& cell_of_point,
                std::vector<int64_t> grid_size, int64_t long_cell, int64_t min_run, bool channels_last) {
  const PoolShape shape = pool_shape(depth, context, grid_size[0] * grid_size[1] * grid_size[2]);
  const int64_t samples = plan_samples(shape, cell_of_point);
  check_tables(shape, samples, entry_start, entries, column_runs);
  check_table(long_cells, long_cell_slots(entries.numel(), long_cell), "long_cells");
  const torch::stable::accelerator::DeviceGuard guard(depth.get_device_index());
  const Launcher launch(depth);
  const Tensor out = pooled_like(context, grid_size, channels_last, context.scalar_type());
  const Tensor weights = torch::stable::contiguous(depth);
  with_type(context.scalar_type(), "depth and context", [&](auto type) {
    using T = decltype(type);
    const Rows rows = channel_rows<T>(context, 2, launch);
    ForwardArgs<T> args = forward_args<T>(shape, samples, entry_start, entries, column_runs, long_cells);
    args.depth = const_data<T>(weights);
    args.context = const_data<T>(rows.storage);
    args.out = data<T>(out);
    args.long_cell = static_cast<int>(long_cell);
    args.channels_last = channels_last;
    // Runs are as long as min_run: a feature map with fewer rows has none.
    args.columns = min_run <= shape.height && depth.numel() > 0;
    if (shape.channels > 0 && shape.samples > 0) {
      check_size(args, shape.images());
      run_forward(args, context, launch);
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
  // All samples at once, or one after the other where they share the plan of one.
  const int64_t at_once = plan_samples(shape, cell_of_point), images = at_once * shape.cameras;
  const int64_t pixels = images * shape.pixels_per_image(), points = pixels * shape.bins;
  constexpr ScalarType kSum = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
  const Tensor partial = empty_on(depth_grad, {slices > 1 ? slices * points : 0}, kSum);
  BackwardArgs<T> args{};
  args.cell_of_point = const_data<int32_t>(cell_of_point);
  args.partial = slices > 1 ? data<SumOf<T>>(partial) : nullptr;
  args.images = images;
  args.bins = static_cast<int>(shape.bins);
  args.height = static_cast<int>(shape.height);
  args.width = static_cast<int>(shape.width);
  args.channels = static_cast<int>(shape.channels);
  args.stride = rows.stride;
  for (int64_t sample = 0, pass = 0; sample < shape.samples; sample += at_once, ++pass) {
    args.grad_rows = const_data<T>(grad_rows.storage) + sample * shape.cells_per_sample * rows.stride;
    args.depth = const_data<T>(weights) + pass * points;
    args.rows = const_data<T>(rows.storage) + pass * pixels * rows.stride;
    args.depth_grad = data<T>(depth_grad) + pass * points;
    args.context_grad = data<T>(context_grad) + pass * pixels * shape.channels;
    launch_backward(args, launch);
    if (slices > 1) {
      launch_sum_slices(SumSlicesArgs<T>{args.partial, args.depth_grad, points, slices}, launch);
    }
  }
}

std::tuple<Tensor, Tensor> bev_pool_backward(const Tensor& grad, const Tensor& depth, const Tensor& context,
                                             const Tensor& cell_of_point) {
  const PoolShape shape = pool_shape(depth, context, grad.size(2) * grad.size(3) * grad.size(4));
  plan_samples(shape, cell_of_point);
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
