// Stereo matching on the CPU: every pixel of now against the previous view, at every depth.
//
// The previous map is laid out as rows of channels with a border of zeros, so that the four pixels around any position
// that sees something exist. A tile of neighbouring pixels of now is worked on at a time, one pixel after the other:
// the way of a pixel through the previous view shares most of its rows with the way of the pixel before it, and those
// stand in the cache. Sampling, differences and the sums of groups stay in registers. Depths that see nothing all cost
// the same.
//
// Every operation has the published order, for any number of threads and any width of vectors: the products of the four
// pixels are added from the upper left to the lower right, each in one fused operation; absolute differences of four
// neighbouring channels are added one after the other, and then these groups. The lanes of a vector are groups while
// their channels are added, and depths while the groups are.
#include "../sweep_position.h"
#include "../tensors.h"
#include "sweep_rows.h"
#include "vectors.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <vector>

namespace bev_ops {
namespace {

constexpr int64_t kTilePixels = 64;  // neighbouring pixels of now that share reads, writes and cached rows

// ---- where a pixel is looked up -----------------------------------------------------------------

IntVector rounded_down(FloatVector numbers) {
  const IntVector whole = __builtin_convertvector(numbers, IntVector);
  return whole + (numbers < __builtin_convertvector(whole, FloatVector));  // true is -1
}

int64_t whole_vectors(int64_t depths) { return (depths + kVectorLanes - 1) / kVectorLanes * kVectorLanes; }

// A depth at which a pixel sees something, and the row of the upper left of the four pixels in the bordered map.
struct Lookup {
  int32_t depth, corner;
};

// The depths at which one pixel sees something, in their order.
class Lookups {
  int64_t depths_, count_ = 0;
  std::vector<Lookup> found_;
  std::vector<int32_t> corners_;  // of every depth; -1 where nothing is seen
  std::vector<float> weights_;    // of every depth, left top, then right top, left bottom, right bottom

  float* weights(int which) { return weights_.data() + which * whole_vectors(depths_); }

  void list_found() {
    Lookup* const found = found_.data();
    const int32_t* const corners = corners_.data();
    int64_t count = 0;
    for (int64_t d = 0; d < depths_; ++d) {
      found[count] = {static_cast<int32_t>(d), corners[d]};
      count += corners[d] >= 0;
    }
    count_ = count;
  }

 public:
  explicit Lookups(int64_t depths)
      : depths_(depths), found_(depths + 1), corners_(whole_vectors(depths)), weights_(4 * whole_vectors(depths)) {}

  // `depths` fill whole vectors; those beyond the last mean nothing.
  void find(const SweepCamera& camera, const SweepShape& shape, int64_t stride, float u, float v, const float* depths) {
    const SweepAxis columns = sweep_axis(shape.width, stride), rows = sweep_axis(shape.height, stride);
    const int32_t bordered_width = static_cast<int32_t>(shape.bordered_width());
    const FloatVector first = FloatVector{} - 1;
    for (int64_t d = 0; d < depths_; d += kVectorLanes) {
      const SweepPosition<FloatVector> at = sweep_position(camera, columns, rows, u, v, load(depths + d));
      const IntVector left = rounded_down(at.x), top = rounded_down(at.y);
      const FloatVector beyond_left = at.x - __builtin_convertvector(left, FloatVector);
      const FloatVector below_top = at.y - __builtin_convertvector(top, FloatVector);
      store((1 - beyond_left) * (1 - below_top), weights(0) + d);
      store(beyond_left * (1 - below_top), weights(1) + d);
      store((1 - beyond_left) * below_top, weights(2) + d);
      store(beyond_left * below_top, weights(3) + d);
      const IntVector sees = (at.x > first) & (at.x < first * 0 + columns.count) & (at.y > first) &
                             (at.y < first * 0 + rows.count);
      store(((top + 1) * bordered_width + left + 1) | ~sees, corners_.data() + d);
    }
    list_found();
  }

  int64_t count() const { return count_; }
  const Lookup* begin() const { return found_.data(); }
  const Lookup* end() const { return found_.data() + count_; }
  const float* weights(int which) const { return weights_.data() + which * whole_vectors(depths_); }
};

// What is read at lookups: vectors of channels, or single ones.
class Sampler {
  const float *left_top_, *right_top_, *left_bottom_, *right_bottom_;
  int64_t stride_, below_;

 public:
  Sampler(const SweepShape& shape, const Lookups& lookups)
      : left_top_(lookups.weights(0)), right_top_(lookups.weights(1)), left_bottom_(lookups.weights(2)),
        right_bottom_(lookups.weights(3)), stride_(shape.stride()), below_(shape.bordered_width() * shape.stride()) {}

  // `rows` is that of the first of the channels in the first row.
  template <typename Vector>
  Vector read(const Lookup& lookup, const float* rows) const {
    const float* const at = rows + lookup.corner * stride_;
    const int32_t d = lookup.depth;
    Vector sum = left_top_[d] * load<Vector>(at);
    sum = fused(right_top_[d], load<Vector>(at + stride_), sum);
    sum = fused(left_bottom_[d], load<Vector>(at + below_), sum);
    return fused(right_bottom_[d], load<Vector>(at + below_ + stride_), sum);
  }
};

// ---- cost ---------------------------------------------------------------------------------------

// Absolute differences of one run of channels, added within its groups: (lookups + 1, Groups). The last row is that of
// the zeros that all other depths see.
template <int Groups>
void group_differences(const Sampler& sampler, const Lookups& lookups, const float* rows, const float* own,
                       float* groups) {
  constexpr int kLanes = std::min(Groups, kVectorLanes), kVectors = Groups / kLanes;
  using Vector = typename VectorOf<kLanes>::Floats;
  Vector mine[kGroup * kVectors], sums[kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kGroup * kVectors; ++i) {
    mine[i] = load<Vector>(own + i * kLanes);
  }
  const auto add = [&](int i, Vector difference) {
    const Vector distance = absolute<kLanes>(difference);
    sums[i % kVectors] = i < kVectors ? distance : sums[i % kVectors] + distance;
  };
  const auto finish_row = [&] {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      store(sums[i], groups + i * kLanes);
    }
    groups += Groups;
  };
  for (const Lookup& lookup : lookups) {
#pragma GCC unroll 16
    for (int i = 0; i < kGroup * kVectors; ++i) {
      add(i, sampler.read<Vector>(lookup, rows + i * kLanes) - mine[i]);
    }
    finish_row();
  }
#pragma GCC unroll 16
  for (int i = 0; i < kGroup * kVectors; ++i) {
    add(i, mine[i]);
  }
  finish_row();
}

// Adds groups (count, Groups) to sums (count,), one group after the other. Four rows side by side: both must have
// memory for a count in fours.
template <int Groups>
void add_groups(int64_t count, const float* groups, float* sums) {
  for (int64_t first = 0; first < count; first += 4) {
    const float* const rows = groups + first * Groups;
    Four sum = load<Four>(sums + first);
#pragma GCC unroll 4
    for (int group = 0; group < Groups; group += 4) {
      Four a = load<Four>(rows + group), b = load<Four>(rows + Groups + group);
      Four c = load<Four>(rows + 2 * Groups + group), d = load<Four>(rows + 3 * Groups + group);
      transpose(a, b, c, d);
      sum = sum + a + b + c + d;
    }
    store(sum, sums + first);
  }
}

// What one thread needs for a tile. Sums and groups have a row for every lookup and one for nothing, in fours.
struct Scratch {
  std::vector<float> own, sums, groups, costs;
  Lookups lookups;

  explicit Scratch(const SweepShape& shape)
      : own(kTilePixels * shape.stride()), sums(shape.depths + 4), groups((shape.depths + 4) * (kLongRun / kGroup)),
        costs(shape.depths * kTilePixels), lookups(shape.depths) {}
};

// Costs of one pixel, kTilePixels apart, from its own features and its lookups.
void match_pixel(const SweepShape& shape, const float* rows, const float* own, float bias, Scratch& scratch,
                 float* costs) {
  const Lookups& lookups = scratch.lookups;
  const Sampler sampler(shape, lookups);
  float *const groups = scratch.groups.data(), *const sums = scratch.sums.data();
  std::fill(scratch.sums.begin(), scratch.sums.end(), 0.0f);
  for_each_run(shape.stride(), [&](int64_t run, auto width) {
    group_differences<width>(sampler, lookups, rows + run, own + run, groups);
    add_groups<width>(lookups.count() + 1, groups, sums);
  });
  for (int64_t d = 0; d < shape.depths; ++d) {
    costs[d * kTilePixels] = sums[lookups.count()] + bias;
  }
  const float* const judged = rows + last_group(shape);  // its first channel tells whether the bias is added
  const float* sum = sums;
  for (const Lookup& lookup : lookups) {
    costs[lookup.depth * kTilePixels] = *sum++ + (sampler.read<float>(lookup, judged) == 0 ? bias : 0.0f);
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
  std::vector<float> depths;  // fill whole vectors; those beyond the last depth mean nothing
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

template <typename T>
void match_tile(const SweepArgs& args, int64_t image, int64_t first, const float* rows, Scratch& scratch) {
  const SweepShape& shape = args.shape;
  const SweepCamera camera = args.camera(image);
  const int64_t count = std::min(kTilePixels, shape.pixels() - first);
  const float* u = args.pixels + 2 * image * shape.pixels() + first;
  copy_rows<T>(args.current, image, first, count, shape, scratch.own.data());
  for (int64_t i = 0; i < count; ++i) {
    scratch.lookups.find(camera, shape, args.stride, u[i], u[shape.pixels() + i], args.depths.data());
    match_pixel(shape, rows, scratch.own.data() + i * shape.stride(), args.bias, scratch, scratch.costs.data() + i);
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
  const Tensor rows = empty_on(args.current.storage, {shape.bordered_rows(), shape.stride()}, ScalarType::Float);
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
  const SweepShape shape{images, channels, current.size(2), current.size(3), depths.numel()};
  STD_TORCH_CHECK(shape.bordered_rows() <= INT32_MAX, "feature maps are too large: ", shape.pixels(), " pixels");
  const Tensor out = empty_on(current, {images, shape.depths, shape.height, shape.width}, ScalarType::Float);
  if (out.numel() == 0) {
    return out;
  }
  std::vector<float> filled(whole_vectors(shape.depths), 1.0f);
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
