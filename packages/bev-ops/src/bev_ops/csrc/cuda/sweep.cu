// Operator of stereo matching on CUDA devices.
#include "launch.h"
#include "sweep_kernels.cuh"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

namespace bev_ops {
namespace {

// Memory for rows of the previous maps, which decides how many images are matched at once: enough of them to fill a
// device, far fewer than the published way needs for its warped features.
constexpr int64_t kWorkspaceBytes = 16 << 20;
constexpr int64_t kMaxImages = 65535;  // of one launch

class SweepLauncher {
  cudaStream_t stream_;

 public:
  explicit SweepLauncher(const Tensor& tensor) : stream_(current_stream(tensor)) {}

  template <typename Args>
  void operator()(void (*kernel)(Args), SweepGrid grid, size_t shared_bytes, const Args& args) const {
    STD_TORCH_CHECK(grid.x <= INT32_MAX, "too many pixels for one launch: ", grid.x, " blocks");
    STD_TORCH_CHECK(shared_bytes <= kSweepShared, "too many channels and depths for stereo matching: a block needs ",
                    shared_bytes, " bytes of shared memory, it has ", kSweepShared);
    const dim3 blocks(static_cast<unsigned>(grid.x), grid.y, grid.z);
    kernel<<<blocks, kSweepThreads, shared_bytes, stream_>>>(args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

const float* floats(const Tensor& tensor, int64_t numel, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() && tensor.numel() == numel, name,
                  " must be a contiguous float32 tensor of ", numel, " numbers");
  return const_data<float>(tensor);
}

// The arguments of the images from `first` on.
template <typename T>
SweepArgs<T> from_image(SweepArgs<T> args, int64_t first, int64_t count) {
  const int64_t pixels = args.num_pixels();
  args.current += first * args.channels * pixels;
  args.pixels += first * 2 * pixels;
  args.pixel_to_previous += first * 9;
  args.translation += first * 3;
  args.intrinsics += first * 9;
  args.image_aug += first * 9;
  args.out += first * args.num_depths * pixels;
  args.images = count;
  return args;
}

template <typename T>
void match(SweepArgs<T> args, const Tensor& previous, const SweepLauncher& launch) {
  const bool as_rows = args.row_stride == args.channels && is_channels_last(previous, 1) &&
                       reinterpret_cast<uintptr_t>(previous.data_ptr()) % 16 == 0;
  const int64_t images = args.images, row_numbers = args.num_pixels() * args.row_stride;
  const int64_t fitting = kWorkspaceBytes / (row_numbers * static_cast<int64_t>(sizeof(T)));
  const int64_t at_once = std::min(images, as_rows ? kMaxImages : std::min(kMaxImages, std::max<int64_t>(1, fitting)));
  const Tensor source = as_rows ? previous : torch::stable::contiguous(previous);
  const Tensor rows = empty_on(previous, {as_rows ? 0 : at_once * row_numbers}, previous.scalar_type());
  for (int64_t first = 0; first < images; first += at_once) {
    SweepArgs<T> part = from_image(args, first, std::min(at_once, images - first));
    if (as_rows) {
      part.previous_rows = const_data<T>(source) + first * row_numbers;
    } else {
      launch_sweep_rows(SweepRowsArgs<T>{const_data<T>(source) + first * args.num_pixels() * args.channels,
                                         data<T>(rows), args.num_pixels(), args.channels, args.row_stride},
                        part.images, launch);
      part.previous_rows = const_data<T>(rows);
    }
    launch_matching(part, launch);
  }
}

Tensor matching_cost(const Tensor& current, const Tensor& previous, const Tensor& pixels,
                     const Tensor& pixel_to_previous, const Tensor& translation, const Tensor& intrinsics,
                     const Tensor& image_aug, const Tensor& depths, int64_t stride, double bias, bool probability) {
  STD_TORCH_CHECK(current.dim() == 4 && current.scalar_type() == previous.scalar_type(),
                  "features must be (M, C, H, W) and of one type");
  const int64_t images = current.size(0), channels = current.size(1), height = current.size(2), width = current.size(3);
  const int64_t num_depths = depths.numel(), num_pixels = height * width;
  STD_TORCH_CHECK(num_pixels <= INT32_MAX / 2, "feature maps are too large: ", num_pixels, " pixels");
  const torch::stable::accelerator::DeviceGuard guard(current.get_device_index());
  const Tensor out = empty_on(current, {images, num_depths, height, width}, ScalarType::Float);
  if (out.numel() == 0) {
    return out;
  }
  const bool as_rows = is_channels_last(current, 1);
  const Tensor now = as_rows ? current : torch::stable::contiguous(current);
  const SweepLauncher launch(current);
  const auto run = [&](auto type) {
    using T = decltype(type);
    SweepArgs<T> args{};
    args.current = const_data<T>(now);
    args.pixels = floats(pixels, images * 2 * num_pixels, "pixels");
    args.pixel_to_previous = floats(pixel_to_previous, images * 9, "pixel_to_previous");
    args.translation = floats(translation, images * 3, "translation");
    args.intrinsics = floats(intrinsics, images * 9, "intrinsics");
    args.image_aug = floats(image_aug, images * 9, "image_aug");
    args.depths = floats(depths, num_depths, "depths");
    args.out = data<float>(out);
    args.images = images;
    args.height = static_cast<int>(height);
    args.width = static_cast<int>(width);
    args.channels = static_cast<int>(channels);
    args.row_stride = static_cast<int>((channels + kPackSize<T> - 1) / kPackSize<T> * kPackSize<T>);
    args.num_depths = static_cast<int>(num_depths);
    args.stride = static_cast<int>(stride);
    args.bias = static_cast<float>(bias);
    args.current_as_rows = as_rows;
    args.probability = probability;
    match(args, previous, launch);
  };
  switch (current.scalar_type()) {
    case ScalarType::Half:
      run(torch::headeronly::Half{});
      return out;
    case ScalarType::BFloat16:
      run(torch::headeronly::BFloat16{});
      return out;
    case ScalarType::Float:
      run(float{});
      return out;
    default:
      STD_TORCH_CHECK(false, "features must be float16, bfloat16 or float32");
  }
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CUDA, m) { m.impl("matching_cost", TORCH_BOX(&bev_ops::matching_cost)); }
