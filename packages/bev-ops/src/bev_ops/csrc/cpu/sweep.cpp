// Stereo matching on the CPU: every pixel of now against the previous view, at every depth.
//
// The previous map is laid out as rows of channels with a border of zeros, so that the four pixels around any position
// that sees something exist. A tile of neighbouring pixels of now is worked on at a time, one pixel after the other:
// the way of a pixel through the previous view shares most of its rows with the way of the pixel before it, and those
// stand in the cache. Sampling, difference and sum stay in registers. Depths that see nothing all cost the same.
//
// Sums have one order on every processor and for any number of threads: channel c belongs to lane c % 16; each lane
// adds four channels, then the four to its sum, and the lanes are added in halves.
#include "../sweep_position.h"
#include "../tensors.h"
#include "simd.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace bev_ops {
namespace {

constexpr int kLanes = 16;           // channels side by side, on every processor
constexpr int kRun = 4 * kLanes;     // channels whose own values are held in registers
constexpr int64_t kTilePixels = 64;  // neighbouring pixels of now that share reads, writes and cached rows
constexpr int64_t kPublishedGroup = 4;

typedef float FloatVector __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntVector __attribute__((vector_size(kVectorBytes)));
constexpr int kVectorLanes = kVectorBytes / static_cast<int>(sizeof(float));
constexpr int kVectors = kLanes / kVectorLanes;  // registers of kLanes channels

FloatVector load(const float* source) {
  FloatVector vector;
  std::memcpy(&vector, source, sizeof(vector));
  return vector;
}

FloatVector absolute(FloatVector vector) {
  return reinterpret_cast<FloatVector>(reinterpret_cast<IntVector>(vector) & 0x7fffffff);
}

struct SweepShape {
  int64_t images, channels, height, width, depths;
  int64_t stride;  // of a row of channels, a multiple of kLanes

  int64_t pixels() const { return height * width; }
  int64_t bordered_width() const { return width + 2; }
  int64_t bordered_rows() const { return (height + 2) * bordered_width(); }
};

// ---- rows of channels ---------------------------------------------------------------------------

// Features (M, C, H, W) of any of the supported types, plain or channels-last.
struct Features {
  Tensor storage;
  int64_t image, channel, pixel;  // strides

  template <typename T>
  const T* at(int64_t m, int64_t p) const {
    return static_cast<const T*>(storage.data_ptr()) + m * image + p * pixel;
  }
};

Features features_of(const Tensor& tensor) {
  const bool as_rows = is_channels_last(tensor, 1);
  const Tensor storage = as_rows ? tensor : torch::stable::contiguous(tensor);
  const int64_t channels = tensor.size(1), pixels = tensor.size(2) * tensor.size(3);
  return {storage, channels * pixels, as_rows ? 1 : pixels, as_rows ? channels : 1};
}

// Sixteen channels of `count` neighbouring pixels; 16 x 16 at a time, so that whole cache lines are read and written.
template <typename T>
void transpose(const T* source, int64_t channel_stride, int64_t count, int64_t row_stride, float* rows) {
  int64_t first = 0;
  for (; first + kLanes <= count; first += kLanes) {
    for (int c = 0; c < kLanes; ++c) {
      for (int i = 0; i < kLanes; ++i) {
        rows[(first + i) * row_stride + c] = static_cast<float>(source[c * channel_stride + first + i]);
      }
    }
  }
  for (; first < count; ++first) {
    for (int c = 0; c < kLanes; ++c) {
      rows[first * row_stride + c] = static_cast<float>(source[c * channel_stride + first]);
    }
  }
}

// `count` neighbouring pixels as float32 rows, padded with zeros.
template <typename T>
void copy_rows(const Features& from, int64_t image, int64_t first, int64_t count, const SweepShape& shape, float* to) {
  const T* source = from.at<T>(image, first);
  int64_t channel = 0;
  for (; from.channel != 1 && channel + kLanes <= shape.channels; channel += kLanes) {
    transpose(source + channel * from.channel, from.channel, count, shape.stride, to + channel);
  }
  for (int64_t i = 0; i < count; ++i) {
    float* const row = to + i * shape.stride;
    for (int64_t c = channel; c < shape.channels; ++c) {
      row[c] = static_cast<float>(source[i * from.pixel + c * from.channel]);
    }
    std::fill(row + shape.channels, row + shape.stride, 0.0f);
  }
}

// The previous map of one image with a border of zeros.
template <typename T>
void border_map(const Features& from, int64_t image, const SweepShape& shape, float* to) {
  const int64_t line = shape.bordered_width() * shape.stride;
  torch::stable::parallel_for(0, shape.height + 2, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* target = to + row * line;
      if (row == 0 || row == shape.height + 1) {
        std::fill(target, target + line, 0.0f);
        continue;
      }
      std::fill(target, target + shape.stride, 0.0f);
      std::fill(target + line - shape.stride, target + line, 0.0f);
      copy_rows<T>(from, image, (row - 1) * shape.width, shape.width, shape, target + shape.stride);
    }
  });
}

// ---- where a pixel is looked up -----------------------------------------------------------------

// One pixel at every depth, and at some more to fill the last vector. `corner` is the row of the upper left of the four
// pixels in the bordered map, or -1 where nothing is seen.
class Lookups {
  int64_t length_;
  std::vector<int32_t> corner_;
  std::vector<float> weights_;

 public:
  explicit Lookups(int64_t depths)
      : length_((depths + kVectorLanes - 1) / kVectorLanes * kVectorLanes), corner_(length_), weights_(4 * length_) {}

  int64_t length() const { return length_; }
  int32_t* corner() { return corner_.data(); }
  float* weight(int which) { return weights_.data() + which * length_; }  // left top, right top, left and right bottom
  const int32_t* corner() const { return corner_.data(); }
  const float* weight(int which) const { return weights_.data() + which * length_; }
};

IntVector rounded_down(FloatVector numbers) {
  const IntVector whole = __builtin_convertvector(numbers, IntVector);
  return whole + (numbers < __builtin_convertvector(whole, FloatVector));  // true is -1
}

template <typename Vector, typename T>
void store(Vector vector, T* target) {
  std::memcpy(target, &vector, sizeof(vector));
}

// `depths` are as many as there are lookups.
void find(const SweepCamera& camera, const SweepShape& shape, int64_t stride, float u, float v, const float* depths,
          Lookups& found) {
  const SweepAxis columns = sweep_axis(shape.width, stride), rows = sweep_axis(shape.height, stride);
  const int32_t bordered_width = static_cast<int32_t>(shape.bordered_width());
  for (int64_t d = 0; d < found.length(); d += kVectorLanes) {
    const SweepPosition<FloatVector> at = sweep_position(camera, columns, rows, u, v, load(depths + d));
    const IntVector left = rounded_down(at.x), top = rounded_down(at.y);
    const FloatVector right_weight = at.x - __builtin_convertvector(left, FloatVector), left_weight = 1 - right_weight;
    const FloatVector bottom_weight = at.y - __builtin_convertvector(top, FloatVector), top_weight = 1 - bottom_weight;
    store(left_weight * top_weight, found.weight(0) + d);
    store(right_weight * top_weight, found.weight(1) + d);
    store(left_weight * bottom_weight, found.weight(2) + d);
    store(right_weight * bottom_weight, found.weight(3) + d);
    const FloatVector first = FloatVector{} - 1;
    const IntVector sees = (at.x > first) & (at.x < first * 0 + columns.count) & (at.y > first) &
                           (at.y < first * 0 + rows.count);
    store(((top + 1) * bordered_width + left + 1) | ~sees, found.corner() + d);
  }
}

// ---- cost ---------------------------------------------------------------------------------------

// Adds the differences of Runs * kLanes channels to the sums of the lanes.
template <int Runs>
void add_differences(const SweepShape& shape, const Lookups& lookups, const float* rows, const float* own,
                     int64_t channel, float* sums) {
  constexpr int kCount = Runs * kVectors;
  const int64_t stride = shape.stride, below = shape.bordered_width() * stride, depths = shape.depths;
  const int32_t* const corners = lookups.corner();
  const float *const left_top = lookups.weight(0), *const right_top = lookups.weight(1);
  const float *const left_bottom = lookups.weight(2), *const right_bottom = lookups.weight(3);
  FloatVector mine[kCount];
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) {
    mine[i] = load(own + channel + i * kVectorLanes);
  }
  for (int64_t d = 0; d < depths; ++d) {
    if (corners[d] < 0) {
      continue;
    }
    const float* corner = rows + corners[d] * stride + channel;
    const float weights[4] = {left_top[d], right_top[d], left_bottom[d], right_bottom[d]};
    FloatVector sum[kVectors] = {};
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) {
      const float* at = corner + i * kVectorLanes;
      const FloatVector warped = weights[0] * load(at) + weights[1] * load(at + stride) +
                                 weights[2] * load(at + below) + weights[3] * load(at + below + stride);
      sum[i % kVectors] += absolute(warped - mine[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      float* const target = sums + d * kLanes + i * kVectorLanes;
      store(load(target) + sum[i], target);
    }
  }
}

// Sum of the lanes, by halves.
float sum_lanes(const float* lanes) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  Eight eight, upper_eight;
  std::memcpy(&eight, lanes, sizeof(eight));
  std::memcpy(&upper_eight, lanes + 8, sizeof(eight));
  eight += upper_eight;
  Four four, upper_four;
  std::memcpy(&four, &eight, sizeof(four));
  std::memcpy(&upper_four, reinterpret_cast<const char*>(&eight) + sizeof(four), sizeof(four));
  four += upper_four;
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// What a pixel costs where it sees nothing: summed like any other cost.
float cost_of_nothing(const SweepShape& shape, const float* own) {
  float sums[kLanes] = {};
  for (int64_t first = 0; first < shape.stride; first += kRun) {
    float run[kLanes] = {};
    for (int64_t channel = first; channel < std::min<int64_t>(first + kRun, shape.stride); channel += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        run[lane] += std::fabs(own[channel + lane]);
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      sums[lane] += run[lane];
    }
  }
  return sum_lanes(sums);
}

// Costs of one pixel, kTilePixels apart.
void match_pixel(const SweepShape& shape, const Lookups& lookups, const float* rows, const float* own, float bias,
                 std::vector<float>& sums, float* costs) {
  std::fill(sums.begin(), sums.end(), 0.0f);
  int64_t channel = 0;
  for (; channel + kRun <= shape.stride; channel += kRun) {
    add_differences<kRun / kLanes>(shape, lookups, rows, own, channel, sums.data());
  }
  for (; channel < shape.stride; channel += kLanes) {
    add_differences<1>(shape, lookups, rows, own, channel, sums.data());
  }
  const float nothing = cost_of_nothing(shape, own) + bias;
  const int64_t stride = shape.stride, below = shape.bordered_width() * stride, depths = shape.depths;
  const int32_t* const corners = lookups.corner();
  const float *const left_top = lookups.weight(0), *const right_top = lookups.weight(1);
  const float *const left_bottom = lookups.weight(2), *const right_bottom = lookups.weight(3);
  const float* const judged = rows + shape.channels - kPublishedGroup;  // the channel that tells whether bias is added
  for (int64_t d = 0; d < depths; ++d) {
    if (corners[d] < 0) {
      costs[d * kTilePixels] = nothing;
      continue;
    }
    const float* at = judged + corners[d] * stride;
    const float read = left_top[d] * at[0] + right_top[d] * at[stride] + left_bottom[d] * at[below] +
                       right_bottom[d] * at[below + stride];
    costs[d * kTilePixels] = sum_lanes(sums.data() + d * kLanes) + (read == 0 ? bias : 0.0f);
  }
}

// ---- softmax ------------------------------------------------------------------------------------

// exp(x) for x <= 0, off by at most two units in the last place; what is too small for float32 is 0.
inline float exp_of(float x) {
  const float twos = x * 1.44269504f + 12582912.0f;  // the sum's lowest bits are the nearest whole number
  const float whole = twos - 12582912.0f;
  const float rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
  float series = 1.9875691500e-4f * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  series = series * (rest * rest) + rest + 1;
  int32_t bits;
  std::memcpy(&bits, &twos, sizeof(bits));
  const uint32_t scale_bits = (static_cast<uint32_t>(bits) + 127) << 23;
  float scale;
  std::memcpy(&scale, &scale_bits, sizeof(scale));
  return x < -87.0f ? 0.0f : series * scale;
}

// Costs (depths, kTilePixels) -> softmax of minus the costs over the depths.
void soften(int64_t depths, float* costs) {
  float least[kTilePixels], total[kTilePixels] = {};
  std::copy(costs, costs + kTilePixels, least);
  for (int64_t i = 1; i < depths; ++i) {
    for (int64_t pixel = 0; pixel < kTilePixels; ++pixel) {
      const float cost = costs[i * kTilePixels + pixel];
      least[pixel] = cost < least[pixel] ? cost : least[pixel];
    }
  }
  for (int64_t i = 0; i < depths; ++i) {
    for (int64_t pixel = 0; pixel < kTilePixels; ++pixel) {
      const float weight = exp_of(least[pixel] - costs[i * kTilePixels + pixel]);
      costs[i * kTilePixels + pixel] = weight;
      total[pixel] += weight;
    }
  }
  for (int64_t i = 0; i < depths; ++i) {
    for (int64_t pixel = 0; pixel < kTilePixels; ++pixel) {
      costs[i * kTilePixels + pixel] /= total[pixel];
    }
  }
}

// ---- operator -----------------------------------------------------------------------------------

struct SweepArgs {
  SweepShape shape;
  Features current, previous;
  const float* pixels;  // (M, 2, H * W)
  const float* pixel_to_previous;
  const float* translation;
  const float* intrinsics;
  const float* image_aug;
  std::vector<float> depths;  // as many as there are lookups; those beyond the last depth mean nothing
  int64_t stride;
  float bias;
  bool probability;
  float* out;  // (M, D, H * W)

  SweepCamera camera(int64_t image) const {
    SweepCamera camera;
    std::copy(pixel_to_previous + image * 9, pixel_to_previous + image * 9 + 9, camera.pixel_to_previous);
    std::copy(translation + image * 3, translation + image * 3 + 3, camera.translation);
    std::copy(intrinsics + image * 9, intrinsics + image * 9 + 9, camera.intrinsics);
    std::copy(image_aug + image * 9, image_aug + image * 9 + 9, camera.image_aug);
    return camera;
  }
};

// What one thread needs for a tile.
struct Scratch {
  std::vector<float> own, sums, costs;
  Lookups lookups;

  explicit Scratch(const SweepShape& shape)
      : own(kTilePixels * shape.stride), sums(shape.depths * kLanes), costs(shape.depths * kTilePixels),
        lookups(shape.depths) {}
};

template <typename T>
void match_tile(const SweepArgs& args, int64_t image, int64_t first, const float* rows, Scratch& scratch) {
  const SweepShape& shape = args.shape;
  const SweepCamera camera = args.camera(image);
  const int64_t count = std::min(kTilePixels, shape.pixels() - first);
  const float* u = args.pixels + 2 * image * shape.pixels() + first;
  copy_rows<T>(args.current, image, first, count, shape, scratch.own.data());
  for (int64_t i = 0; i < count; ++i) {
    find(camera, shape, args.stride, u[i], u[shape.pixels() + i], args.depths.data(), scratch.lookups);
    match_pixel(shape, scratch.lookups, rows, scratch.own.data() + i * shape.stride, args.bias, scratch.sums,
                scratch.costs.data() + i);
  }
  if (args.probability) {
    soften(shape.depths, scratch.costs.data());
  }
  for (int64_t d = 0; d < shape.depths; ++d) {
    const float* costs = scratch.costs.data() + d * kTilePixels;
    std::copy(costs, costs + count, args.out + (image * shape.depths + d) * shape.pixels() + first);
  }
}

template <typename T>
void match(const SweepArgs& args) {
  const SweepShape& shape = args.shape;
  const Tensor rows = empty_on(args.current.storage, {shape.bordered_rows(), shape.stride}, ScalarType::Float);
  float* const data = static_cast<float*>(rows.data_ptr());
  const int64_t tiles = (shape.pixels() + kTilePixels - 1) / kTilePixels;
  for (int64_t image = 0; image < shape.images; ++image) {
    border_map<T>(args.previous, image, shape, data);
    torch::stable::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
      Scratch scratch(shape);
      for (int64_t tile = begin; tile < end; ++tile) {
        match_tile<T>(args, image, tile * kTilePixels, data, scratch);
      }
    });
  }
}

const float* floats(const Tensor& tensor, int64_t numel, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float && tensor.is_contiguous() && tensor.numel() == numel, name,
                  " must be a contiguous float32 tensor of ", numel, " numbers");
  return static_cast<const float*>(tensor.data_ptr());
}

Tensor matching_cost(const Tensor& current, const Tensor& previous, const Tensor& pixels,
                     const Tensor& pixel_to_previous, const Tensor& translation, const Tensor& intrinsics,
                     const Tensor& image_aug, const Tensor& depths, int64_t stride, double bias, bool probability) {
  STD_TORCH_CHECK(current.dim() == 4 && current.scalar_type() == previous.scalar_type(),
                  "features must be (M, C, H, W) and of one type");
  const int64_t images = current.size(0), channels = current.size(1);
  const SweepShape shape{images, channels, current.size(2), current.size(3), depths.numel(),
                         (channels + kLanes - 1) / kLanes * kLanes};
  STD_TORCH_CHECK(shape.bordered_rows() <= INT32_MAX, "feature maps are too large: ", shape.pixels(), " pixels");
  const Tensor out = empty_on(current, {images, shape.depths, shape.height, shape.width}, ScalarType::Float);
  if (out.numel() == 0) {
    return out;
  }
  std::vector<float> filled(Lookups(shape.depths).length(), 1.0f);
  const float* const given = floats(depths, shape.depths, "depths");
  std::copy(given, given + shape.depths, filled.begin());
  const SweepArgs args{shape,
                       features_of(current),
                       features_of(previous),
                       floats(pixels, images * 2 * shape.pixels(), "pixels"),
                       floats(pixel_to_previous, images * 9, "pixel_to_previous"),
                       floats(translation, images * 3, "translation"),
                       floats(intrinsics, images * 9, "intrinsics"),
                       floats(image_aug, images * 9, "image_aug"),
                       filled,
                       stride,
                       static_cast<float>(bias),
                       probability,
                       static_cast<float*>(out.data_ptr())};
  switch (current.scalar_type()) {
    case ScalarType::Float:
      match<float>(args);
      return out;
    case ScalarType::Half:
      match<torch::headeronly::Half>(args);
      return out;
    case ScalarType::BFloat16:
      match<torch::headeronly::BFloat16>(args);
      return out;
    default:
      STD_TORCH_CHECK(false, "features must be float16, bfloat16 or float32");
  }
}

}  // namespace
}  // namespace bev_ops

STABLE_TORCH_LIBRARY_IMPL(bev_ops, CPU, m) { m.impl("matching_cost", TORCH_BOX(&bev_ops::matching_cost)); }
