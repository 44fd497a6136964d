// Building a plan on CUDA devices.
#include "launch.h"
#include "plan_kernels.cuh"

#include <algorithm>

#include <cub/device/device_radix_sort.cuh>

namespace bev_ops {
namespace {

int bits_of(uint64_t value) {
  int bits = 0;
  for (; value != 0; value >>= 1) {
    ++bits;
  }
  return bits;
}

// Memory of one build beside its tables: keys, their numbers, sorted keys, and what cub asks for.
struct Scratch {
  size_t sort_bytes = 0;
  Tensor memory;

  Scratch(PlanArgs& args, const Tensor& like) {
    // cub reads no memory while it says how much it needs.
    STD_CUDA_CHECK(sort(args, nullptr, nullptr, nullptr));
    const int64_t table = ((args.columns + args.count) * sizeof(uint32_t) + 255) / 256 * 256;
    memory = empty_on(like, {256 + 3 * table + static_cast<int64_t>(sort_bytes)}, ScalarType::Byte);
    char* bytes = static_cast<char*>(memory.data_ptr());
    args.long_count = reinterpret_cast<int32_t*>(bytes);
    args.keys = reinterpret_cast<uint32_t*>(bytes + 256);
    args.numbers = reinterpret_cast<int32_t*>(bytes + 256 + table);
    args.sorted = reinterpret_cast<uint32_t*>(bytes + 256 + 2 * table);
    sort_memory_ = bytes + 256 + 3 * table;
  }

  void sort(PlanArgs& args, int32_t* entries, cudaStream_t stream) {
    STD_CUDA_CHECK(sort(args, sort_memory_, entries, stream));
  }

 private:
  void* sort_memory_ = nullptr;

  cudaError_t sort(PlanArgs& args, void* memory, int32_t* entries, cudaStream_t stream) {
    return cub::DeviceRadixSort::SortPairs(memory, sort_bytes, args.keys, const_cast<uint32_t*>(args.sorted),
                                           args.numbers, entries, args.columns + args.count, 0, bits_of(2 * args.cells), stream);
  }
};

template <typename Kernel>
void run_kernel(Kernel kernel, int64_t threads, const PlanArgs& args, cudaStream_t stream) {
  if (threads > 0) {
    const int64_t blocks = (threads + kThreads - 1) / kThreads;
    STD_TORCH_CHECK(blocks <= INT32_MAX, "too many points or cells for one launch: ", threads);
    kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
}

PlanArgs plan_args(const Tensor& points, const std::vector<double>& lower, const std::vector<double>& step,
                   const std::vector<int64_t>& size) {
  PlanArgs args{};
  for (int axis = 0; axis < 3; ++axis) {
    args.lower[axis] = static_cast<float>(lower[axis]);
    args.step[axis] = static_cast<float>(step[axis]);
    args.size[axis] = static_cast<float>(size[axis]);
  }
  args.points = const_data<float>(points);
  args.count = points.numel() / 3;
  args.points_per_sample = args.count == 0 ? 1 : args.count / points.size(0);
  args.columns = args.count == 0 ? 0 : args.count / points.size(3);
  args.cells_per_sample = size[0] * size[1] * size[2];
  args.cells = points.size(0) * args.cells_per_sample;
  args.height = static_cast<int>(points.size(3));
  args.width = static_cast<int>(points.size(4));
  args.grid_width = static_cast<int>(size[0]);
  args.grid_height = static_cast<int>(size[1]);
  STD_TORCH_CHECK(2 * args.cells < INT32_MAX, "a plan on a GPU holds fewer than 2^30 cells, got ", args.cells);
  return args;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> pool_plan(const Tensor& points, std::vector<double> lower,
                                                             std::vector<double> step, std::vector<int64_t> size,
                                                             int64_t long_cell, int64_t min_run) {
  STD_TORCH_CHECK(points.dim() == 6 && points.scalar_type() == ScalarType::Float, "points must be float32 with 6 dims");
  const torch::stable::accelerator::DeviceGuard guard(points.get_device_index());
  const Tensor source = torch::stable::contiguous(points);
  const cudaStream_t stream = current_stream(points);
  PlanArgs args = plan_args(source, lower, step, size);
  args.long_cell = static_cast<int>(long_cell < INT32_MAX ? long_cell : INT32_MAX);
  args.min_run = static_cast<int>(min_run < INT32_MAX ? min_run : INT32_MAX);
  STD_TORCH_CHECK(points.size(3) < 32768, "a plan on a GPU takes fewer than 32768 feature rows, got ", points.size(3));
  const std::vector<int64_t> shape = {points.size(0), points.size(1), points.size(2), points.size(3), points.size(4)};
  const auto table = [&](const std::vector<int64_t>& sizes) { return empty_on(points, sizes, ScalarType::Int); };
  const Tensor cells = table(shape), runs = table({shape[0], shape[1], shape[2], shape[4]});
  const Tensor entries = table({runs.numel() + args.count}), start = table({2 * args.cells + 1});
  const Tensor crowded = table({long_cell_slots(entries.numel(), long_cell)});
  Scratch scratch(args, points);
  args.cell_of_point = data<int32_t>(cells);
  args.column_runs = data<int32_t>(runs);
  args.entry_start = data<int32_t>(start);
  args.long_cells = data<int32_t>(crowded);
  args.long_slots = static_cast<int>(crowded.numel());
  run_kernel(find_cells, std::max<int64_t>(args.count, args.long_slots), args, stream);
  run_kernel(find_runs, args.columns, args, stream);
  if (args.count > 0) {
    scratch.sort(args, data<int32_t>(entries), stream);
  }
  run_kernel(find_starts, 2 * args.cells + 1, args, stream);
  run_kernel(list_long_cells, args.cells, args, stream);
  return {start, entries, runs, crowded, cells};
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CUDA, m) { m.impl("pool_plan", TORCH_BOX(&bev_ops::pool_plan)); }
