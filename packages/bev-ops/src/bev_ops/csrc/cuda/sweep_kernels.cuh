// Stereo matching on the GPU: kernels, and the host code that decides how they are laid out.
//
// The previous map stands in rows of channels. A group of lanes owns one pixel of now, each lane holding some 16-byte
// packs of its channels, and walks the depths: neighbouring depths often fall between the same four pixels, whose packs
// then still are in registers, and neighbouring pixels of a block read neighbouring rows, which the L1 cache holds. The
// sums of several depths are added over the group together, so that a shuffle moves half of what is left each time.
// The own values of a block's pixels and its costs pass through shared memory, so that both sides of the operator are
// read and written in whole sectors in NCHW order; the softmax over the depths is taken there.
// Every sum has one order, so results are equal from run to run.
#pragma once

#include "../sweep_position.h"
#include "device.cuh"

#include <cmath>

namespace bev_ops {

constexpr int kSweepThreads = 256;
constexpr int kSweepTile = 32;       // edge of a transposed tile
constexpr int kSweepDepths = 4;      // whose sums are added over the group together
constexpr size_t kSweepShared = 47 * 1024;  // bytes a block may ask for: 48 KiB less what it has anyway
constexpr int kPublishedGroup = 4;   // the bias is read off the first of the last so many channels

struct SweepGrid {
  int64_t x;
  int y, z;
};

// ---- rows ---------------------------------------------------------------------------------------

template <typename T>
struct SweepRowsArgs {
  const T* source;  // (images, channels, pixels)
  T* rows;          // (images, pixels, stride), the padding set to zero
  int64_t pixels;
  int channels, stride;
};

template <typename T>
__global__ void __launch_bounds__(kSweepThreads) sweep_rows(SweepRowsArgs<T> args) {
  __shared__ T tile[kSweepTile][kSweepTile + 1];
  const int column = threadIdx.x % kSweepTile, first_row = threadIdx.x / kSweepTile;
  constexpr int kRowStep = kSweepThreads / kSweepTile;
  const int64_t first_pixel = static_cast<int64_t>(blockIdx.x) * kSweepTile, image = blockIdx.z;
  const int first_channel = blockIdx.y * kSweepTile;
  for (int row = first_row; row < kSweepTile; row += kRowStep) {
    const int channel = first_channel + row;
    const int64_t pixel = first_pixel + column;
    const bool inside = channel < args.channels && pixel < args.pixels;
    tile[row][column] = inside ? args.source[(image * args.channels + channel) * args.pixels + pixel] : T(0);
  }
  __syncthreads();
  for (int row = first_row; row < kSweepTile; row += kRowStep) {
    const int channel = first_channel + column;
    const int64_t pixel = first_pixel + row;
    if (channel < args.stride && pixel < args.pixels) {
      args.rows[(image * args.pixels + pixel) * args.stride + channel] = tile[column][row];
    }
  }
}

template <typename T, typename Launch>
void launch_sweep_rows(const SweepRowsArgs<T>& args, int64_t images, const Launch& launch) {
  const int64_t columns = (args.pixels + kSweepTile - 1) / kSweepTile;
  const int rows = (args.stride + kSweepTile - 1) / kSweepTile;
  launch(sweep_rows<T>, SweepGrid{columns, rows, static_cast<int>(images)}, 0, args);
}

// ---- groups of lanes ----------------------------------------------------------------------------

template <int Lanes>
__device__ float exchange(float value, int distance) {
  constexpr unsigned kAll = Lanes == 32 ? 0xffffffffu : (1u << (Lanes % 32)) - 1u;
  return __shfl_xor_sync(kAll << (threadIdx.x % 32 / Lanes * Lanes), value, distance, Lanes);
}

template <int Lanes>
__device__ float least(float value) {
#pragma unroll
  for (int distance = Lanes / 2; distance > 0; distance /= 2) {
    value = fminf(value, exchange<Lanes>(value, distance));
  }
  return value;
}

// Sums over the group of kSweepDepths values of each lane: the lanes of each quarter of the group hold one of them, in
// order. A lane passes on what its half does not keep.
template <int Lanes>
__device__ float sum_depths(const float (&values)[kSweepDepths]) {
  static_assert(kSweepDepths == 4 && Lanes >= 4, "halved twice");
  const bool upper = threadIdx.x & (Lanes / 2), odd = threadIdx.x & (Lanes / 4);
  const float first = (upper ? values[2] : values[0]) + exchange<Lanes>(upper ? values[0] : values[2], Lanes / 2);
  const float second = (upper ? values[3] : values[1]) + exchange<Lanes>(upper ? values[1] : values[3], Lanes / 2);
  float sum = (odd ? second : first) + exchange<Lanes>(odd ? first : second, Lanes / 4);
#pragma unroll
  for (int distance = Lanes / 8; distance > 0; distance /= 2) {
    sum += exchange<Lanes>(sum, distance);
  }
  return sum;
}

// ---- layout -------------------------------------------------------------------------------------

// Groups of `Lanes` threads per pixel. Each lane holds `Packs` packs of channels; longer rows are walked several times.
template <typename T, int Lanes, int Packs>
struct SweepLayout {
  static constexpr int kLanes = Lanes;
  static constexpr int kPacks = Packs;
  static constexpr int kPixels = kSweepThreads / Lanes;  // of a block
  static constexpr int kChannels = Lanes * Packs * kPackSize<T>;

  // Channel, within a walk, of the first number of a pack of a lane.
  static __device__ int channel(int lane, int pack) { return (pack * Lanes + lane) * kPackSize<T>; }
};

// ---- matching -----------------------------------------------------------------------------------

template <typename T>
struct SweepArgs {
  const T* current;        // (images, channels, pixels), or (images, pixels, channels) where current_as_rows
  const T* previous_rows;  // (images, pixels, row_stride)
  const float* pixels;     // (images, 2, pixels)
  const float* pixel_to_previous;
  const float* translation;
  const float* intrinsics;
  const float* image_aug;
  const float* depths;
  float* out;  // (images, num_depths, pixels)
  int64_t images;
  int height, width, channels, row_stride, num_depths, stride;
  float bias;
  bool current_as_rows, probability;

  __device__ __host__ int64_t num_pixels() const { return static_cast<int64_t>(height) * width; }
  // Odd, so that the costs of neighbouring pixels fall into different banks.
  __device__ __host__ int cost_stride() const { return num_depths | 1; }
};

// By 30 threads of a block. In shared memory, because the registers are needed for channels.
template <typename T>
__device__ void load_camera(const SweepArgs<T>& args, int64_t image, SweepCamera& camera) {
  const int i = threadIdx.x;
  if (i < 9) {
    camera.pixel_to_previous[i] = args.pixel_to_previous[image * 9 + i];
  } else if (i < 18) {
    camera.intrinsics[i - 9] = args.intrinsics[image * 9 + i - 9];
  } else if (i < 27) {
    camera.image_aug[i - 18] = args.image_aug[image * 9 + i - 18];
  } else if (i < 30) {
    camera.translation[i - 27] = args.translation[image * 3 + i - 27];
  }
}

// A pack as it lies in memory: two 16-bit numbers share a register until they are needed.
template <typename T>
struct PackedWords {
  static constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
  unsigned words[4];

  __device__ static PackedWords zero() { return {{0, 0, 0, 0}}; }

  __device__ static PackedWords load(const T* source) {
    const Pack<T> pack = load_pack(source);
    PackedWords result;
    memcpy(&result, &pack, sizeof(result));
    return result;
  }

  __device__ static PackedWords load_shared(const T* source) {
    PackedWords result;
    memcpy(&result, __builtin_assume_aligned(source, 16), sizeof(result));
    return result;
  }

  __device__ float operator[](int i) const {
    if constexpr (kPerWord == 1) {
      float number;
      memcpy(&number, &words[i], sizeof(number));
      return number;
    } else {
      const unsigned short bits = static_cast<unsigned short>(words[i / 2] >> (i % 2 * 16));
      T number;
      memcpy(&number, &bits, sizeof(number));
      return static_cast<float>(number);
    }
  }
};

// What a group compares: the lane's own packs of its pixel, and those of the four pixels around a position.
template <typename T, typename L>
struct Comparison {
  PackedWords<T> own[L::kPacks];
  PackedWords<T> corners[4][L::kPacks];
  const T* rows;  // previous map of the image, from the first channel of the lane's first pack on
  int left, top;  // of the four pixels
  int judged;     // the number of this lane off which the bias is read; none: -1
  float nothing;  // the lane's share of the cost of seeing nothing

  __device__ void start(const SweepArgs<T>& args, const T* image_rows, const T* own_row, int base, int lane) {
    rows = image_rows + base;
    left = top = INT32_MIN;
    judged = -1;
    nothing = 0;
#pragma unroll
    for (int pack = 0; pack < L::kPacks; ++pack) {
      const int channel = base + L::channel(lane, pack), to_judged = args.channels - kPublishedGroup - channel;
      own[pack] = channel < args.row_stride ? PackedWords<T>::load_shared(own_row + channel) : PackedWords<T>::zero();
      judged = 0 <= to_judged && to_judged < kPackSize<T> ? pack * kPackSize<T> + to_judged : judged;
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) {
        nothing += fabsf(own[pack][i]);
      }
    }
    nothing += judged >= 0 ? args.bias : 0.0f;
  }

  // Reads the four pixels at and after (x, y) unless they are there already.
  __device__ void move_to(const SweepArgs<T>& args, int base, int lane, int x, int y) {
    if (x == left && y == top) {
      return;
    }
    left = x;
    top = y;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const int column = x + corner % 2, line = y + corner / 2;
      const bool inside = column >= 0 && column < args.width && line >= 0 && line < args.height;
      const T* row = rows + (static_cast<int64_t>(line) * args.width + column) * args.row_stride;
#pragma unroll
      for (int pack = 0; pack < L::kPacks; ++pack) {
        const int channel = L::channel(lane, pack);
        const bool read = inside && base + channel < args.row_stride;
        corners[corner][pack] = read ? PackedWords<T>::load(row + channel) : PackedWords<T>::zero();
      }
    }
  }

  // The lane's share of the cost at a position.
  __device__ float cost(const SweepArgs<T>& args, int base, int lane, float x, float y) {
    const bool sees = x > -1 && x < static_cast<float>(args.width) && y > -1 && y < static_cast<float>(args.height);
    if (!sees) {
      return nothing;
    }
    const float left_pixel = floorf(x), top_pixel = floorf(y), right = x - left_pixel, bottom = y - top_pixel;
    const float weights[4] = {(1 - right) * (1 - bottom), right * (1 - bottom), (1 - right) * bottom, right * bottom};
    move_to(args, base, lane, static_cast<int>(left_pixel), static_cast<int>(top_pixel));
    float sum = 0;
#pragma unroll
    for (int pack = 0; pack < L::kPacks; ++pack) {
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) {
        float warped = weights[0] * corners[0][pack][i];
#pragma unroll
        for (int corner = 1; corner < 4; ++corner) {
          warped = fused_multiply_add(weights[corner], corners[corner][pack][i], warped);
        }
        sum += fabsf(warped - own[pack][i]);
        if (i % kPublishedGroup == 0) {  // channels are a multiple of it: no other number can be the judged one
          sum += judged == pack * kPackSize<T> + i && warped == 0 ? args.bias : 0.0f;
        }
      }
    }
    return sum;
  }
};

// Own channels of the block's pixels, as rows in shared memory.
template <typename T, typename L>
__device__ void stage_current(const SweepArgs<T>& args, int64_t image, int64_t first_pixel, T* own) {
  const int64_t pixels = args.num_pixels();
  for (int i = threadIdx.x; i < L::kPixels * args.row_stride; i += kSweepThreads) {
    const int pixel = args.current_as_rows ? i / args.row_stride : i % L::kPixels;
    const int channel = args.current_as_rows ? i % args.row_stride : i / L::kPixels;
    const bool inside = channel < args.channels && first_pixel + pixel < pixels;
    const int64_t at = args.current_as_rows ? (image * pixels + first_pixel + pixel) * args.channels + channel
                                            : (image * args.channels + channel) * pixels + first_pixel + pixel;
    own[pixel * args.row_stride + channel] = inside ? args.current[at] : T(0);
  }
}

// Adds the differences of one walk, channels from `base` on, to the costs of the group's pixel.
template <typename T, typename L>
__device__ void walk_depths(const SweepArgs<T>& args, const SweepCamera& camera, float u, float v, int base,
                            Comparison<T, L>& comparison, float* costs) {
  const LaneGroup<L::kLanes> group;
  const SweepAxis columns = sweep_axis(args.width, args.stride), rows = sweep_axis(args.height, args.stride);
  for (int first = 0; first < args.num_depths; first += L::kLanes) {
    const int mine = first + group.lane();
    const float depth = args.depths[mine < args.num_depths ? mine : args.num_depths - 1];
    const SweepPosition<float> at = sweep_position(camera, columns, rows, u, v, depth);
    const int left = args.num_depths - first, count = left < L::kLanes ? left : L::kLanes;
    for (int k = 0; k < count; k += kSweepDepths) {
      float shares[kSweepDepths];
#pragma unroll
      for (int j = 0; j < kSweepDepths; ++j) {
        const float x = group.broadcast(at.x, k + j), y = group.broadcast(at.y, k + j);
        shares[j] = comparison.cost(args, base, group.lane(), x, y);
      }
      const float sum = sum_depths<L::kLanes>(shares);
      constexpr int kQuarter = L::kLanes / kSweepDepths;
      const int d = first + k + group.lane() / kQuarter;
      if (group.lane() % kQuarter == 0 && d < args.num_depths) {
        costs[d] = base == 0 ? sum : costs[d] + sum;
      }
    }
  }
}

// Costs of the group's pixel -> softmax of minus the costs.
template <int Lanes>
__device__ void soften(int num_depths, float* costs) {
  const LaneGroup<Lanes> group;
  float lowest = costs[0], total = 0;
  for (int d = group.lane(); d < num_depths; d += Lanes) {
    lowest = fminf(lowest, costs[d]);
  }
  lowest = least<Lanes>(lowest);
  for (int d = group.lane(); d < num_depths; d += Lanes) {
    total += expf(lowest - costs[d]);
  }
  total = group.sum(total);
  for (int d = group.lane(); d < num_depths; d += Lanes) {
    costs[d] = expf(lowest - costs[d]) / total;
  }
}

// Grid (blocks of pixels, 1, images). Dynamic shared memory: see sweep_shared_bytes.
template <typename T, typename L>
__global__ void __launch_bounds__(kSweepThreads, 2) match_pixels(SweepArgs<T> args) {
  T* const own = dynamic_shared<T>();
  __shared__ SweepCamera camera;
  float* const costs = reinterpret_cast<float*>(own + L::kPixels * args.row_stride);
  const LaneGroup<L::kLanes> group;
  const int64_t pixels = args.num_pixels(), image = blockIdx.z;
  const int64_t first_pixel = static_cast<int64_t>(blockIdx.x) * L::kPixels;
  load_camera(args, image, camera);
  stage_current<T, L>(args, image, first_pixel, own);
  __syncthreads();

  // Groups beyond the last pixel repeat it, so that all threads reach the barriers.
  const int64_t wanted = first_pixel + group.index(), pixel = wanted < pixels ? wanted : pixels - 1;
  const float u = args.pixels[2 * image * pixels + pixel], v = args.pixels[(2 * image + 1) * pixels + pixel];
  float* const group_costs = costs + group.index() * args.cost_stride();
  for (int base = 0; base < args.row_stride; base += L::kChannels) {
    Comparison<T, L> comparison;
    comparison.start(args, args.previous_rows + image * pixels * args.row_stride,
                     own + group.index() * args.row_stride, base, group.lane());
    walk_depths(args, camera, u, v, base, comparison, group_costs);
  }
  __syncthreads();
  if (args.probability) {
    soften<L::kLanes>(args.num_depths, group_costs);
    __syncthreads();
  }
  for (int i = threadIdx.x; i < L::kPixels * args.num_depths; i += kSweepThreads) {
    const int row = i % L::kPixels, d = i / L::kPixels;
    if (first_pixel + row < pixels) {
      args.out[(image * args.num_depths + d) * pixels + first_pixel + row] = costs[row * args.cost_stride() + d];
    }
  }
}

template <typename T, typename L>
size_t sweep_shared_bytes(const SweepArgs<T>& args) {
  return L::kPixels * (static_cast<size_t>(args.row_stride) * sizeof(T) + args.cost_stride() * sizeof(float));
}

template <typename T, typename L, typename Launch>
void launch_matching_as(const SweepArgs<T>& args, const Launch& launch) {
  const int64_t blocks = (args.num_pixels() + L::kPixels - 1) / L::kPixels;
  launch(match_pixels<T, L>, SweepGrid{blocks, 1, static_cast<int>(args.images)}, sweep_shared_bytes<T, L>(args), args);
}

// Two packs per lane where a row has them: what is done once per position then serves more channels.
template <typename T, typename Launch>
void launch_matching(const SweepArgs<T>& args, const Launch& launch) {
  const int packs = args.row_stride / kPackSize<T>;
  if (packs <= 4 && sweep_shared_bytes<T, SweepLayout<T, 4, 1>>(args) <= kSweepShared) {
    launch_matching_as<T, SweepLayout<T, 4, 1>>(args, launch);
  } else if (packs <= 16 && sweep_shared_bytes<T, SweepLayout<T, 8, 2>>(args) <= kSweepShared) {
    launch_matching_as<T, SweepLayout<T, 8, 2>>(args, launch);
  } else if (packs <= 32 && sweep_shared_bytes<T, SweepLayout<T, 16, 2>>(args) <= kSweepShared) {
    launch_matching_as<T, SweepLayout<T, 16, 2>>(args, launch);
  } else {
    launch_matching_as<T, SweepLayout<T, 32, 2>>(args, launch);
  }
}

}  // namespace bev_ops
