// Softmax over depth on the GPU: logits as a depth net leaves them, in any order of memory, to the weights of pooling.
//
// A block keeps all depths of some neighbouring pixels in shared memory: read once, written once, both in whole pieces.
#pragma once

#include "device.cuh"

namespace bev_ops {

constexpr int kSoftmaxPixels = 32;                    // of a block, one per lane
constexpr int kSoftmaxWarps = 8;                      // share the depths
constexpr int kSoftmaxThreads = kSoftmaxPixels * kSoftmaxWarps;
constexpr int kSoftmaxPitch = kSoftmaxPixels + 1;     // rows and columns are both read without conflicts of banks

template <typename T>
struct SoftmaxArgs {
  const T* logits;     // (images, bins, pixels) by the strides below
  SumOf<T>* depth;     // (images, bins, pixels)
  int64_t image_stride, bin_stride, pixel_stride;
  int64_t pixels;      // of an image
  int bins, images;
};

template <typename T>
size_t softmax_shared_bytes(int64_t bins) {
  return (bins * kSoftmaxPitch + kSoftmaxThreads) * sizeof(SumOf<T>);
}

// Reads along whichever of pixels and depths lies closer together in memory.
template <typename T>
__device__ void stage_logits(const SoftmaxArgs<T>& args, const T* source, int pixels, SumOf<T>* tile) {
  const int lane = threadIdx.x % kSoftmaxPixels, warp = threadIdx.x / kSoftmaxPixels;
  if (args.pixel_stride <= args.bin_stride) {
    for (int bin = warp; lane < pixels && bin < args.bins; bin += kSoftmaxWarps) {
      tile[bin * kSoftmaxPitch + lane] = static_cast<SumOf<T>>(source[bin * args.bin_stride + lane * args.pixel_stride]);
    }
    return;
  }
  for (int pixel = warp; pixel < pixels; pixel += kSoftmaxWarps) {
    for (int bin = lane; bin < args.bins; bin += kSoftmaxPixels) {
      tile[bin * kSoftmaxPitch + pixel] =
          static_cast<SumOf<T>>(source[bin * args.bin_stride + pixel * args.pixel_stride]);
    }
  }
}

// What the warps found for the pixel of this lane, put together in their order.
template <typename V, typename Combine>
__device__ V over_warps(V* shares, V own, const Combine& combine) {
  const int lane = threadIdx.x % kSoftmaxPixels;
  shares[threadIdx.x] = own;
  __syncthreads();
  V all = shares[lane];
  for (int warp = 1; warp < kSoftmaxWarps; ++warp) {
    all = combine(all, shares[warp * kSoftmaxPixels + lane]);
  }
  __syncthreads();
  return all;
}

template <typename T>
__global__ void __launch_bounds__(kSoftmaxThreads) softmax_over_depth(SoftmaxArgs<T> args) {
  using V = SumOf<T>;
  V* tile = dynamic_shared<V>();
  V* shares = tile + args.bins * kSoftmaxPitch;
  start_next();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kSoftmaxPixels, left = args.pixels - first;
  const int pixels = left < kSoftmaxPixels ? static_cast<int>(left) : kSoftmaxPixels;
  stage_logits(args, args.logits + blockIdx.y * args.image_stride + first * args.pixel_stride, pixels, tile);
  __syncthreads();

  const int lane = threadIdx.x % kSoftmaxPixels, warp = threadIdx.x / kSoftmaxPixels;
  const bool inside = lane < pixels;
  // A warp without depths repeats the first one.
  V highest = inside ? tile[(warp < args.bins ? warp : 0) * kSoftmaxPitch + lane] : V(0);
  for (int bin = warp + kSoftmaxWarps; inside && bin < args.bins; bin += kSoftmaxWarps) {
    const V logit = tile[bin * kSoftmaxPitch + lane];
    highest = logit > highest ? logit : highest;
  }
  highest = over_warps(shares, highest, [](V a, V b) { return b > a ? b : a; });
  V total = 0;
  for (int bin = warp; inside && bin < args.bins; bin += kSoftmaxWarps) {
    V& place = tile[bin * kSoftmaxPitch + lane];
    place = exp(place - highest);  // NaN where a logit is NaN, and so is the sum
    total += place;
  }
  total = over_warps(shares, total, [](V a, V b) { return a + b; });
  V* target = args.depth + blockIdx.y * static_cast<int64_t>(args.bins) * args.pixels + first + lane;
  for (int bin = warp; inside && bin < args.bins; bin += kSoftmaxWarps) {
    target[bin * args.pixels] = tile[bin * kSoftmaxPitch + lane] / total;
  }
}

}  // namespace bev_ops
