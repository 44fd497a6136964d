// Operator of softmax over depth on CUDA devices.
#include "launch.h"
#include "softmax_kernels.cuh"

namespace bev_ops {
namespace {

// Pixels of an image as one dimension, if memory allows that; else a copy.
Tensor with_rows_in_line(const Tensor& logits) {
  const bool in_line = logits.size(2) == 1 || logits.stride(2) == logits.size(3) * logits.stride(3);
  return in_line ? logits : torch::stable::contiguous(logits);
}

template <typename T>
void launch_softmax(const Tensor& logits, const Tensor& depth) {
  const SoftmaxArgs<T> args{const_data<T>(logits),
                            data<SumOf<T>>(depth),
                            logits.stride(0),
                            logits.stride(1),
                            logits.size(3) == 1 ? logits.stride(2) : logits.stride(3),
                            logits.size(2) * logits.size(3),
                            static_cast<int>(logits.size(1)),
                            static_cast<int>(logits.size(0))};
  const size_t bytes = softmax_shared_bytes<T>(args.bins);
  const int64_t blocks = (args.pixels + kSoftmaxPixels - 1) / kSoftmaxPixels;
  STD_TORCH_CHECK(bytes <= 48 * 1024, "softmax over ", args.bins, " depths asks for ", bytes, " bytes of shared memory");
  STD_TORCH_CHECK(blocks <= INT32_MAX && args.images <= 65535, "logits of ", args.images, " images of ", args.pixels,
                  " pixels are too many for one launch");
  softmax_over_depth<T><<<dim3(static_cast<unsigned>(blocks), args.images), kSoftmaxThreads, bytes,
                          current_stream(logits)>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor depth_softmax(const Tensor& logits) {
  STD_TORCH_CHECK(logits.dim() == 4, "logits must be (M, D, h, w)");
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const bool doubles = logits.scalar_type() == ScalarType::Double;
  const Tensor depth = empty_on(logits, {logits.size(0), logits.size(1), logits.size(2), logits.size(3)},
                                doubles ? ScalarType::Double : ScalarType::Float);
  if (depth.numel() > 0) {
    const Tensor source = with_rows_in_line(logits);
    with_type(logits.scalar_type(), "logits", [&](auto type) { launch_softmax<decltype(type)>(source, depth); });
  }
  return depth;
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CUDA, m) { m.impl("depth_softmax", TORCH_BOX(&bev_ops::depth_softmax)); }
