// The public pooling kernels' ways of dividing the work, written anew for comparison. Plain C functions, one launch each.
//
//   one_channel_per_thread   BEVPoolv2 (arXiv 2211.17111): a thread owns one channel of one non-empty cell and walks the
//                            points of that cell; float32, rows of channels in and out; the caller zeroes the output.
//   gradients_per_pixel      its backward: a thread owns one pixel and walks its points twice, for depth and for context.
//   ten_channels_per_thread  CUDA-BEVFusion's half kernel: a thread owns ten channels of one non-empty cell, takes one packed
//                            index per point apart by division, sums in float32, and writes to NCHW.
#include <cuda_fp16.h>
#include <cstdint>

namespace {

__global__ void one_channel_per_thread(int channels, int cells, const float* depth, const float* rows,
                                       const int* point_depth, const int* point_pixel, const int* cell_of_interval,
                                       const int* start, const int* length, float* out) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  const int interval = index / channels, channel = index % channels;
  if (interval >= cells) {
    return;
  }
  const int begin = start[interval], count = length[interval];
  float sum = 0;
  for (int i = 0; i < count; ++i) {
    sum += rows[static_cast<int64_t>(point_pixel[begin + i]) * channels + channel] * depth[point_depth[begin + i]];
  }
  out[static_cast<int64_t>(cell_of_interval[begin]) * channels + channel] = sum;
}

__global__ void gradients_per_pixel(int channels, int pixels, const float* grad, const float* depth, const float* rows,
                                    const int* point_depth, const int* point_pixel, const int* point_cell,
                                    const int* start, const int* length, float* depth_grad, float* rows_grad) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= pixels) {
    return;
  }
  const int begin = start[index], count = length[index];
  for (int i = begin; i < begin + count; ++i) {
    const float* cell = grad + static_cast<int64_t>(point_cell[i]) * channels;
    const float* row = rows + static_cast<int64_t>(point_pixel[i]) * channels;
    float sum = 0;
    for (int channel = 0; channel < channels; ++channel) {
      sum += cell[channel] * row[channel];
    }
    depth_grad[point_depth[i]] = sum;
  }
  float* target = rows_grad + static_cast<int64_t>(point_pixel[begin]) * channels;
  for (int channel = 0; channel < channels; ++channel) {
    float sum = 0;
    for (int i = begin; i < begin + count; ++i) {
      sum += grad[static_cast<int64_t>(point_cell[i]) * channels + channel] * depth[point_depth[i]];
    }
    target[channel] = sum;
  }
}

struct __align__(4) Ten {
  half2 pairs[5];
};

__global__ void ten_channels_per_thread(int channels, int cells, int bins, int pixels, const __half* depth,
                                        const __half* rows, const unsigned* points, const int* cell_of_interval,
                                        const int* start, const int* length, int cells_of_grid, __half* out) {
  const int interval = blockIdx.y * blockDim.y + threadIdx.y, channel = threadIdx.x * 10;
  if (interval >= cells) {
    return;
  }
  float sums[10] = {0};
  const int begin = start[interval], end = begin + length[interval];
  for (int i = begin; i < end; ++i) {
    const unsigned point = points[i];
    const unsigned image = point / (bins * pixels);
    const float weight = __half2float(depth[point]);
    const Ten ten = *reinterpret_cast<const Ten*>(rows + (static_cast<int64_t>(image) * pixels + point % pixels) * channels + channel);
#pragma unroll
    for (int k = 0; k < 5; ++k) {
      const float2 pair = __half22float2(ten.pairs[k]);
      sums[2 * k] = fmaf(pair.x, weight, sums[2 * k]);
      sums[2 * k + 1] = fmaf(pair.y, weight, sums[2 * k + 1]);
    }
  }
  const int cell = cell_of_interval[begin];
  __half* target = out + (static_cast<int64_t>(cell / cells_of_grid) * channels + channel) * cells_of_grid + cell % cells_of_grid;
#pragma unroll
  for (int k = 0; k < 10; ++k) {
    target[static_cast<int64_t>(k) * cells_of_grid] = __float2half(sums[k]);
  }
}

}  // namespace

extern "C" {

int pool_one_channel_per_thread(int channels, int cells, const float* depth, const float* rows, const int* point_depth,
                                const int* point_pixel, const int* point_cell, const int* start, const int* length,
                                float* out, cudaStream_t stream) {
  const int blocks = (channels * cells + 255) / 256;
  one_channel_per_thread<<<blocks, 256, 0, stream>>>(channels, cells, depth, rows, point_depth, point_pixel, point_cell,
                                                     start, length, out);
  return cudaGetLastError();
}

int pool_gradients_per_pixel(int channels, int pixels, const float* grad, const float* depth, const float* rows,
                             const int* point_depth, const int* point_pixel, const int* point_cell, const int* start,
                             const int* length, float* depth_grad, float* rows_grad, cudaStream_t stream) {
  gradients_per_pixel<<<(pixels + 255) / 256, 256, 0, stream>>>(channels, pixels, grad, depth, rows, point_depth,
                                                                point_pixel, point_cell, start, length, depth_grad,
                                                                rows_grad);
  return cudaGetLastError();
}

int pool_ten_channels_per_thread(int channels, int cells, int bins, int pixels, const void* depth, const void* rows,
                                 const unsigned* points, const int* point_cell, const int* start, const int* length,
                                 int cells_of_grid, void* out, cudaStream_t stream) {
  const dim3 threads(channels / 10, 1024 / (channels / 10));
  const dim3 blocks(1, (cells + threads.y - 1) / threads.y);
  ten_channels_per_thread<<<blocks, threads, 0, stream>>>(
      channels, cells, bins, pixels, static_cast<const __half*>(depth), static_cast<const __half*>(rows), points,
      point_cell, start, length, cells_of_grid, static_cast<__half*>(out));
  return cudaGetLastError();
}

}  // extern "C"
