// Runs the CUDA kernels' source on the CPU, behind plain C functions for the tests. Every function returns an empty
// string, or what went wrong.
#define BEV_OPS_CUDA_RUNTIME "cuda_emulator.h"
#include <algorithm>

#include "cuda/nms_kernels.cuh"
#include "cuda/pool_kernels.cuh"

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
};

struct PoolSizes {
  int64_t samples, cameras, bins, channels, pixels, cells;
  int64_t long_cell, long_slots;
};

template <typename T>
struct AlignedRows {
  std::unique_ptr<uint4[]> memory;
  int stride;

  // Rows of a contiguous (outer, channels, inner) array, as the operators make them.
  AlignedRows(const void* source, int64_t outer, int64_t channels, int64_t inner) {
    constexpr int kPack = bev_ops::kPackSize<T>;
    stride = static_cast<int>((channels + kPack - 1) / kPack * kPack);
    memory.reset(new uint4[std::max<int64_t>(1, outer * inner * stride / kPack)]);
    std::memset(memory.get(), 0xff, outer * inner * stride * sizeof(T));
    bev_ops::launch_pack_rows(
        bev_ops::PackRowsArgs<T>{static_cast<const T*>(source), data(), outer, inner, static_cast<int>(channels),
                                 stride},
        Launcher{});
  }

  T* data() const { return reinterpret_cast<T*>(memory.get()); }
};

template <typename T>
void forward(const PoolSizes& sizes, const void* depth, const void* context, const int32_t* cell_start,
             const int32_t* point_depth, const int32_t* point_pixel, const int32_t* long_cells, void* out) {
  const AlignedRows<T> rows(context, sizes.samples * sizes.cameras, sizes.channels, sizes.pixels);
  bev_ops::ForwardArgs<T> args{};
  args.depth = static_cast<const T*>(depth);
  args.rows = rows.data();
  args.cell_start = cell_start;
  args.point_depth = point_depth;
  args.point_pixel = point_pixel;
  args.long_cells = long_cells;
  args.out = static_cast<T*>(out);
  args.samples = sizes.samples;
  args.cells_per_sample = sizes.cells;
  args.channels = static_cast<int>(sizes.channels);
  args.stride = rows.stride;
  args.long_cell = static_cast<int>(sizes.long_cell);
  args.long_slots = static_cast<int>(sizes.long_slots);
  bev_ops::launch_forward(args, Launcher{});
}

template <typename T>
void backward(const PoolSizes& sizes, const void* grad, const void* depth, const void* context,
              const int32_t* cell_of_point, void* depth_grad, void* context_grad) {
  const int64_t images = sizes.samples * sizes.cameras, points = images * sizes.bins * sizes.pixels;
  const AlignedRows<T> grad_rows(grad, sizes.samples, sizes.channels, sizes.cells);
  const AlignedRows<T> rows(context, images, sizes.channels, sizes.pixels);
  const int slices = bev_ops::slice_channels<T>(rows.stride).count;
  std::vector<bev_ops::SumOf<T>> partial(slices > 1 ? slices * points : 0, NAN);
  bev_ops::BackwardArgs<T> args{};
  args.grad_rows = grad_rows.data();
  args.depth = static_cast<const T*>(depth);
  args.rows = rows.data();
  args.cell_of_point = cell_of_point;
  args.depth_grad = static_cast<T*>(depth_grad);
  args.partial = slices > 1 ? partial.data() : nullptr;
  args.context_grad = static_cast<T*>(context_grad);
  args.images = images;
  args.pixels = sizes.pixels;
  args.bins = static_cast<int>(sizes.bins);
  args.channels = static_cast<int>(sizes.channels);
  args.stride = rows.stride;
  bev_ops::launch_backward(args, Launcher{});
  if (slices > 1) {
    bev_ops::launch_sum_slices(bev_ops::SumSlicesArgs<T>{partial.data(), args.depth_grad, points, slices}, Launcher{});
  }
}

template <typename T, typename Test>
void suppress(const T* candidates, int64_t count, Test test, bool* keep) {
  using bev_ops::kWord;
  const unsigned words = static_cast<unsigned>((count + kWord - 1) / kWord);
  std::vector<unsigned long long> bits(count * words, ~0ull);
  emulator::launch({words, words, 1}, kWord, 0,
                   [&] { bev_ops::fill_suppression(candidates, count, test, bits.data()); });
  emulator::launch({1, 1, 1}, bev_ops::kGreedyThreads, words * sizeof(bits[0]),
                   [&] { bev_ops::keep_greedily(bits.data(), count, static_cast<int>(words), keep); });
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

const char* emulate_forward(int order, int dtype, const PoolSizes* sizes, const void* depth, const void* context,
                            const int32_t* cell_start, const int32_t* point_depth, const int32_t* point_pixel,
                            const int32_t* long_cells, void* out) {
  return guarded(order, [&] {
    with_type(dtype, [&](auto type) {
      forward<decltype(type)>(*sizes, depth, context, cell_start, point_depth, point_pixel, long_cells, out);
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

const char* emulate_nms_rotated(int order, const float* boxes, int64_t count, double threshold, bool* keep) {
  return guarded(order, [&] {
    suppress(boxes, count, bev_ops::RotatedTest<float>{static_cast<float>(threshold)}, keep);
  });
}

const char* emulate_nms_circle(int order, const float* centers, int64_t count, double radius, bool* keep) {
  return guarded(order, [&] { suppress(centers, count, bev_ops::CircleTest<float>{radius}, keep); });
}

const char* emulate_iou(int order, const float* boxes_a, const float* boxes_b, int64_t rows, int64_t columns,
                        float* iou) {
  const unsigned blocks = static_cast<unsigned>((rows * columns + bev_ops::kPairThreads - 1) / bev_ops::kPairThreads);
  return guarded(order, [&] {
    emulator::launch({blocks, 1, 1}, bev_ops::kPairThreads, 0,
                     [&] { bev_ops::fill_iou(boxes_a, boxes_b, rows, columns, iou); });
  });
}

}  // extern "C"
