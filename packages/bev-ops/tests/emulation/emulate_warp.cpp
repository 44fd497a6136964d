// Runs the CUDA source of affine warping on the CPU, behind plain C functions for the tests. They return an empty
// string, or what went wrong.
#define BEV_OPS_CUDA_RUNTIME "cuda_emulator.h"
#include <algorithm>

#include "cuda/warp_kernels.cuh"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace {

struct Launcher {
  template <typename Args>
  void operator()(void (*kernel)(Args), bev_ops::WarpGrid grid, size_t shared_bytes, const Args& args) const {
    const Index3 blocks{static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)};
    emulator::launch(blocks, bev_ops::kWarpThreads, shared_bytes, [&] { kernel(args); });
  }
};

struct WarpSizes {
  int64_t maps, channels, height, width;
};

template <typename T>
void warp(bool backward, const WarpSizes& sizes, const void* source, const float* cells, void* target) {
  const bev_ops::WarpArgs<T> args{static_cast<const T*>(source),
                                  cells,
                                  static_cast<T*>(target),
                                  sizes.maps,
                                  static_cast<int>(sizes.channels),
                                  static_cast<int>(sizes.height),
                                  static_cast<int>(sizes.width)};
  backward ? bev_ops::launch_warp<T, true>(args, Launcher{}) : bev_ops::launch_warp<T, false>(args, Launcher{});
}

}  // namespace

// dtype: 0 float16, 1 bfloat16, 2 float32, 3 float64
extern "C" const char* emulate_warp(int order, int dtype, int backward, const WarpSizes* sizes, const void* source,
                                    const float* cells, void* target) {
  static std::string message;
  message.clear();
  emulator::order = static_cast<emulator::Order>(order);
  try {
    const auto run = dtype == 0   ? warp<torch::headeronly::Half>
                     : dtype == 1 ? warp<torch::headeronly::BFloat16>
                     : dtype == 2 ? warp<float>
                                  : warp<double>;
    run(backward != 0, *sizes, source, cells, target);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
