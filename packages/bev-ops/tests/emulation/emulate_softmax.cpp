// Runs the CUDA source of softmax over depth on the CPU, behind a plain C function for the tests. It returns an empty
// string, or what went wrong.
#define BEV_OPS_CUDA_RUNTIME "cuda_emulator.h"
#include "cuda_emulator.h"

#include "cuda/softmax_kernels.cuh"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace {

struct SoftmaxSizes {
  int64_t image_stride, bin_stride, pixel_stride, pixels, bins, images;
};

template <typename T>
void softmax(const SoftmaxSizes& s, const void* logits, void* depth) {
  using bev_ops::SumOf;
  const bev_ops::SoftmaxArgs<T> args{static_cast<const T*>(logits),
                                     static_cast<SumOf<T>*>(depth),
                                     s.image_stride,
                                     s.bin_stride,
                                     s.pixel_stride,
                                     s.pixels,
                                     static_cast<int>(s.bins),
                                     static_cast<int>(s.images)};
  const unsigned blocks = (s.pixels + bev_ops::kSoftmaxPixels - 1) / bev_ops::kSoftmaxPixels;
  emulator::launch({blocks, static_cast<unsigned>(s.images), 1}, bev_ops::kSoftmaxThreads,
                   bev_ops::softmax_shared_bytes<T>(s.bins), [&] { bev_ops::softmax_over_depth<T>(args); });
}

}  // namespace

// dtype: 0 float16, 1 bfloat16, 2 float32, 3 float64
extern "C" const char* emulate_softmax(int order, int dtype, const SoftmaxSizes* sizes, const void* logits,
                                       void* depth) {
  static std::string message;
  message.clear();
  emulator::order = static_cast<emulator::Order>(order);
  try {
    const auto run = dtype == 0   ? softmax<torch::headeronly::Half>
                     : dtype == 1 ? softmax<torch::headeronly::BFloat16>
                     : dtype == 2 ? softmax<float>
                                  : softmax<double>;
    run(*sizes, logits, depth);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
