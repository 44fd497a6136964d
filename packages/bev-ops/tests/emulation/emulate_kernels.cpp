// Runs the CUDA kernels' source on the CPU, behind plain C functions for the tests. Every function returns an empty
// string, or what went wrong.
#define BEV_OPS_CUDA_RUNTIME "cuda_matrix.h"
#include <algorithm>

#include "cuda/plan_kernels.cuh"
#include "cuda/pool_backward.cuh"
#include "cuda/pool_cells.cuh"
#include "cuda/pool_products.cuh"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace {

using bev_ops::GridSize;

struct Launcher {
  template <typename Args>
  void operator()(void (*kernel)(Args), GridSize grid, size_t shared_bytes, const Args& args) const {
    const Index3 blocks{static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)};
    emulator::launch(blocks, bev_ops::kThreads, shared_bytes, [&] { kernel(args); });
  }

  template <typename Args>
  void overlapping(void (*kernel)(Args), GridSize grid, size_t shared_bytes, const Args& args) const {
    (*this)(kernel, grid, shared_bytes, args);
  }
};

struct PoolSizes {
  int64_t samples, cameras, bins, channels, height, width, cells;
  int64_t long_cell, long_slots;
  int64_t plan_samples;

  int64_t images() const { return samples * cameras; }
  int64_t pixels() const { return height * width; }
  int64_t points() const { return images() * bins * pixels(); }
};

template <typename T>
struct AlignedRows {
  std::unique_ptr<uint4[]> memory;
  int stride;

  // Rows of a contiguous (outer, channels, inner) array, as the operators make them.
  AlignedRows(const void* source, int64_t outer, int64_t channels, int64_t inner) {
    stride = bev_ops::padded_channels(channels);
    memory.reset(new uint4[std::max<int64_t>(1, outer * inner * stride / bev_ops::kPackSize<T>)]);
    std::memset(memory.get(), 0xff, outer * inner * stride * sizeof(T));
    bev_ops::launch_pack_rows(
        bev_ops::PackRowsArgs<T>{static_cast<const T*>(source), data(), outer, inner, static_cast<int>(channels),
                                 stride},
        Launcher{});
  }

  T* data() const { return reinterpret_cast<T*>(memory.get()); }
};

template <typename T>
void sum_columns(const bev_ops::ForwardArgs<T>& args, bool products) {
  if constexpr (sizeof(T) == 2) {
    if (products) {
      bev_ops::launch_multiply_runs(args, Launcher{});
      return;
    }
  }
  bev_ops::launch_sum_runs(args, Launcher{});
}

// products: by tensor cores, where they do. Samples go in passes of `at_once`.
template <typename T>
void forward(const PoolSizes& sizes, bool products, bool channels_last, int64_t at_once, const void* depth,
             const void* context, const int32_t* entry_start, const int32_t* entries, const int32_t* column_runs,
             const int32_t* long_cells, void* out) {
  const AlignedRows<T> packed(context, sizes.images(), sizes.channels, sizes.pixels());
  const int64_t columns = sizes.plan_samples * sizes.cameras * sizes.bins * sizes.width;
  bev_ops::ForwardArgs<T> args{};
  args.depth = static_cast<const T*>(depth);
  args.context = packed.data();
  args.entry_start = entry_start;
  args.entries = entries;
  args.column_runs = column_runs;
  args.long_cells = long_cells;
  args.out = static_cast<T*>(out);
  args.cells = sizes.plan_samples * sizes.cells;
  args.cells_per_sample = sizes.cells;
  args.cameras = static_cast<int>(sizes.cameras);
  args.bins = static_cast<int>(sizes.bins);
  args.height = static_cast<int>(sizes.height);
  args.width = static_cast<int>(sizes.width);
  args.channels = static_cast<int>(sizes.channels);
  args.stride = packed.stride;
  args.long_cell = static_cast<int>(sizes.long_cell);
  args.long_slots = static_cast<int>(sizes.long_slots);
  args.columns = std::any_of(column_runs, column_runs + columns, [](int32_t run) { return run != 0; });
  args.channels_last = channels_last;
  args.one_plan = sizes.plan_samples < sizes.samples;
  args.shape = bev_ops::row_shape<T>(args.stride);
  args.points_of_image = bev_ops::Divisor(sizes.bins * sizes.pixels());
  args.pixels_of_image = bev_ops::Divisor(sizes.pixels());
  const int64_t run_numbers = sizes.images() * sizes.bins * sizes.width * packed.stride;
  const std::unique_ptr<uint4[]> runs(new uint4[run_numbers * sizeof(bev_ops::SumOf<T>) / sizeof(uint4) + 1]);
  std::memset(runs.get(), 0xff, run_numbers * sizeof(bev_ops::SumOf<T>));
  args.runs = reinterpret_cast<bev_ops::SumOf<T>*>(runs.get());
  for (args.first_sample = 0; args.first_sample < sizes.samples; args.first_sample += args.samples) {
    args.samples = std::min(at_once, sizes.samples - args.first_sample);
    if (args.columns) {
      sum_columns(args, products);
    }
    bev_ops::launch_sum_cells(args, Launcher{});
  }
}

template <typename T>
void backward(const PoolSizes& sizes, const void* grad, const void* depth, const void* context,
              const int32_t* cell_of_point, void* depth_grad, void* context_grad) {
  const AlignedRows<T> grad_rows(grad, sizes.samples, sizes.channels, sizes.cells);
  const AlignedRows<T> rows(context, sizes.images(), sizes.channels, sizes.pixels());
  const int slices = bev_ops::row_shape<T>(rows.stride).slices;
  std::vector<bev_ops::SumOf<T>> partial(slices > 1 ? slices * sizes.points() : 0, NAN);
  bev_ops::BackwardArgs<T> args{};
  args.grad_rows = grad_rows.data();
  args.depth = static_cast<const T*>(depth);
  args.rows = rows.data();
  args.cell_of_point = cell_of_point;
  args.depth_grad = static_cast<T*>(depth_grad);
  args.partial = slices > 1 ? partial.data() : nullptr;
  args.context_grad = static_cast<T*>(context_grad);
  args.images = sizes.images();
  args.bins = static_cast<int>(sizes.bins);
  args.height = static_cast<int>(sizes.height);
  args.width = static_cast<int>(sizes.width);
  args.channels = static_cast<int>(sizes.channels);
  args.stride = rows.stride;
  bev_ops::launch_backward(args, Launcher{});
  if (slices > 1) {
    bev_ops::launch_sum_slices(bev_ops::SumSlicesArgs<T>{partial.data(), args.depth_grad, sizes.points(), slices},
                               Launcher{});
  }
}

// The kernels around the sort, which is cub's on a GPU.
void plan(bev_ops::PlanArgs args, int32_t* entries) {
  const Launcher launch;
  const auto blocks = [](int64_t threads) {
    return GridSize{(threads + bev_ops::kThreads - 1) / bev_ops::kThreads, 1, 1};
  };
  const int64_t count = args.columns + args.count;
  std::vector<uint32_t> keys(count), sorted(count);
  std::vector<int32_t> numbers(count), order(count);
  args.keys = keys.data();
  args.numbers = numbers.data();
  args.sorted = sorted.data();
  launch(bev_ops::find_cells, blocks(args.count), 0, args);
  launch(bev_ops::find_runs, blocks(args.columns), 0, args);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return keys[a] < keys[b]; });
  for (int64_t i = 0; i < count; ++i) {
    sorted[i] = keys[order[i]];
    entries[i] = numbers[order[i]];
  }
  launch(bev_ops::find_starts, blocks(2 * args.cells + 1), 0, args);
  launch(bev_ops::list_long_cells, blocks(args.cells), 0, args);
  std::sort(args.long_cells, args.long_cells + *args.long_count);
}

template <typename Body>
const char* guarded(int order, const Body& body) {
  static std::string message;
  message.clear();
  emulator::order = static_cast<emulator::Order>(order);
  try {
    body();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}

// dtype: 0 float16, 1 bfloat16, 2 float32, 3 float64
template <typename Body>
void with_type(int dtype, const Body& body) {
  switch (dtype) {
    case 0:
      return body(torch::headeronly::Half{});
    case 1:
      return body(torch::headeronly::BFloat16{});
    case 2:
      return body(float{});
    default:
      return body(double{});
  }
}

}  // namespace

extern "C" {

const char* emulate_plan(int order, const float* points, const int64_t* shape, const float* lower, const float* step,
                         const int64_t* size, int64_t long_cell, int64_t long_slots, int64_t min_run,
                         int32_t* entry_start, int32_t* entries, int32_t* column_runs, int32_t* long_cells,
                         int32_t* cell_of_point) {
  return guarded(order, [&] {
    bev_ops::PlanArgs args{};
    args.points = points;
    args.count = shape[0] * shape[1] * shape[2] * shape[3] * shape[4];
    for (int axis = 0; axis < 3; ++axis) {
      args.lower[axis] = lower[axis];
      args.step[axis] = step[axis];
      args.size[axis] = static_cast<float>(size[axis]);
    }
    args.points_per_sample = args.count / shape[0];
    args.columns = args.count / shape[3];
    args.cells_per_sample = size[0] * size[1] * size[2];
    args.cells = shape[0] * args.cells_per_sample;
    args.height = static_cast<int>(shape[3]);
    args.width = static_cast<int>(shape[4]);
    args.grid_width = static_cast<int>(size[0]);
    args.grid_height = static_cast<int>(size[1]);
    int32_t long_count = -1;
    args.long_count = &long_count;
    args.long_cells = long_cells;
    args.long_cell = static_cast<int>(long_cell);
    args.long_slots = static_cast<int>(long_slots);
    args.min_run = static_cast<int>(min_run);
    args.entry_start = entry_start;
    args.column_runs = column_runs;
    args.cell_of_point = cell_of_point;
    plan(args, entries);
  });
}

const char* emulate_forward(int order, int dtype, const PoolSizes* sizes, bool products, bool channels_last,
                            int64_t at_once, const void* depth, const void* context, const int32_t* entry_start,
                            const int32_t* entries, const int32_t* column_runs, const int32_t* long_cells,
                            void* out) {
  return guarded(order, [&] {
    with_type(dtype, [&](auto type) {
      forward<decltype(type)>(*sizes, products, channels_last, at_once, depth, context, entry_start, entries,
                              column_runs, long_cells, out);
    });
  });
}

const char* emulate_backward(int order, int dtype, const PoolSizes* sizes, const void* grad, const void* depth,
                             const void* context, const int32_t* cell_of_point, void* depth_grad, void* context_grad) {
  return guarded(order, [&] {
    with_type(dtype, [&](auto type) {
      backward<decltype(type)>(*sizes, grad, depth, context, cell_of_point, depth_grad, context_grad);
    });
  });
}

}  // extern "C"
