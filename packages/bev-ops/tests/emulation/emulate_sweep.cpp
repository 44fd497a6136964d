// Runs the CUDA source of stereo matching on the CPU, behind plain C functions for the tests. They return an empty
// string, or what went wrong.
#define BEV_OPS_CUDA_RUNTIME "cuda_emulator.h"
#include <algorithm>

#include "cuda/sweep_kernels.cuh"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace {

struct Launcher {
  template <typename Args>
  void operator()(void (*kernel)(Args), bev_ops::SweepGrid grid, size_t shared_bytes, const Args& args) const {
    if (shared_bytes > bev_ops::kSweepShared) {
      throw std::runtime_error("a block needs more shared memory than it has");
    }
    const Index3 blocks{static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)};
    emulator::launch(blocks, bev_ops::kSweepThreads, shared_bytes, [&] { kernel(args); });
  }
};

struct SweepSizes {
  int64_t images, channels, height, width, depths, stride;
  double bias;
  int64_t current_as_rows, probability;
};

struct SweepTensors {
  const void *current, *previous;
  const float *pixels, *pixel_to_previous, *translation, *intrinsics, *image_aug, *depths;
  float* out;
};

template <typename T>
void match(const SweepSizes& sizes, const SweepTensors& tensors) {
  constexpr int kPack = bev_ops::kPackSize<T>;
  const int64_t pixels = sizes.height * sizes.width, stride = (sizes.channels + kPack - 1) / kPack * kPack;
  const std::unique_ptr<uint4[]> rows(new uint4[sizes.images * pixels * stride / kPack]);
  std::memset(rows.get(), 0xff, sizes.images * pixels * stride * sizeof(T));
  T* const row_data = reinterpret_cast<T*>(rows.get());
  bev_ops::launch_sweep_rows(
      bev_ops::SweepRowsArgs<T>{static_cast<const T*>(tensors.previous), row_data, pixels,
                                static_cast<int>(sizes.channels), static_cast<int>(stride)},
      sizes.images, Launcher{});
  bev_ops::SweepArgs<T> args{};
  args.current = static_cast<const T*>(tensors.current);
  args.previous_rows = row_data;
  args.pixels = tensors.pixels;
  args.pixel_to_previous = tensors.pixel_to_previous;
  args.translation = tensors.translation;
  args.intrinsics = tensors.intrinsics;
  args.image_aug = tensors.image_aug;
  args.depths = tensors.depths;
  args.out = tensors.out;
  args.images = sizes.images;
  args.height = static_cast<int>(sizes.height);
  args.width = static_cast<int>(sizes.width);
  args.channels = static_cast<int>(sizes.channels);
  args.row_stride = static_cast<int>(stride);
  args.num_depths = static_cast<int>(sizes.depths);
  args.stride = static_cast<int>(sizes.stride);
  args.bias = static_cast<float>(sizes.bias);
  args.current_as_rows = sizes.current_as_rows != 0;
  args.probability = sizes.probability != 0;
  bev_ops::launch_matching(args, Launcher{});
}

}  // namespace

// dtype: 0 float16, 1 bfloat16, 2 float32
extern "C" const char* emulate_matching(int order, int dtype, const SweepSizes* sizes, const SweepTensors* tensors) {
  static std::string message;
  message.clear();
  emulator::order = static_cast<emulator::Order>(order);
  try {
    dtype == 0   ? match<torch::headeronly::Half>(*sizes, *tensors)
    : dtype == 1 ? match<torch::headeronly::BFloat16>(*sizes, *tensors)
                 : match<float>(*sizes, *tensors);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
