// Rows of channels: how the lanes of a warp share them, and where they lie in memory.
//
// A row is the channels of one pixel or cell. Neighbouring lanes hold one row, 16 bytes each, and a warp holds as many
// rows at a time as fit: 80 float16 channels are 10 lanes, three rows a warp. Nothing here asks for powers of two.
#pragma once

#include "device.cuh"

namespace bev_ops {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxSlots = 8;
constexpr int kChannelStep = 8;         // rows are padded to a multiple of so many channels
constexpr unsigned kAllLanes = 0xffffffffu;

// Blocks that a multiprocessor should hold. The compiler spills registers for compute capability 8 and 10 where it does
// not for 9, unless it is told to hold fewer blocks.
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 900 || __CUDA_ARCH__ >= 1000)
constexpr int kFewerBlocks = 1;
#define BEV_OPS_LAUNCH_BOUNDS(blocks) __launch_bounds__(kThreads, blocks)
#else
constexpr int kFewerBlocks = 0;
#define BEV_OPS_LAUNCH_BOUNDS(blocks) __launch_bounds__(kThreads)
#endif

struct GridSize {
  int64_t x;
  int y, z;
};

struct RowShape {
  int packs;   // packs of a row that one lane holds
  int lanes;   // lanes that hold one row
  int slots;   // rows that a warp holds
  int slices;  // blocks that share the channels
  int slice_channels;
  unsigned slot_scale;  // 65536 / lanes, rounded up
};

// Channels of one block; more are split over blockIdx.y.
template <typename T>
constexpr int kMaxSliceChannels = 512 / static_cast<int>(sizeof(T));

// Packs that a lane may hold; float64 is for checking gradients, not for speed.
template <typename T>
constexpr int kMaxPacks = std::is_same_v<T, double> ? 4 : 2;

// Division of numbers below 2^31 by the same divisor, without dividing (Granlund and Montgomery, 1994).
struct Divisor {
  unsigned value = 1, magic = 1;
  int shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t divisor) : value(divisor > 0 ? static_cast<unsigned>(divisor) : 1) {
    while ((uint64_t{1} << shift) < value) {
      ++shift;
    }
    magic = static_cast<unsigned>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - value)) / value + 1);
  }

  __device__ unsigned divide(unsigned number) const { return (__umulhi(number, magic) + number) >> shift; }
};

inline int padded_channels(int64_t channels) {
  return static_cast<int>((channels + kChannelStep - 1) / kChannelStep * kChannelStep);
}

// The shape that leaves the fewest lanes idle for rows of `stride` numbers.
template <typename T>
RowShape row_shape(int stride) {
  const int steps = stride > 0 ? stride / kChannelStep : 1, most = kMaxSliceChannels<T> / kChannelStep;
  const int slices = (steps + most - 1) / most, channels = (steps + slices - 1) / slices * kChannelStep;
  const int own = channels / kPackSize<T>;
  RowShape best{0, 0, 0, slices, channels, 0};
  for (int per_lane = 1; per_lane <= kMaxPacks<T>; per_lane *= kMaxPacks<T>) {
    const int lanes = (own + per_lane - 1) / per_lane;
    const int slots = lanes > kWarp ? 0 : kWarp / lanes < kMaxSlots ? kWarp / lanes : kMaxSlots;
    if (best.slots == 0 || slots * best.packs > best.slots * per_lane) {
      best.packs = per_lane;
      best.lanes = lanes;
      best.slots = slots;
      best.slot_scale = (65536 + lanes - 1) / lanes;
    }
  }
  return best;
}

// Calls `body` with the packs of a lane as a compile-time number.
template <typename T, typename Body>
void with_packs(int packs, const Body& body) {
  packs == 1 ? body(std::integral_constant<int, 1>{}) : body(std::integral_constant<int, kMaxPacks<T>>{});
}

// The place of a thread in its warp.
struct Place {
  int lanes, slots;
  int slot, lane;

  __device__ explicit Place(const RowShape& shape)
      : lanes(shape.lanes), slots(shape.slots), slot(threadIdx.x % kWarp * shape.slot_scale >> 16) {
    lane = static_cast<int>(threadIdx.x) % kWarp - slot * lanes;
  }

  __device__ bool active() const { return slot < slots; }

  // First channel of a pack within the slice. Packs of a row alternate between the lanes: long reads in one piece.
  template <typename T>
  __device__ int channel(int pack) const {
    return (pack * lanes + lane) * kPackSize<T>;
  }

  // Sum over the lanes of a slot, in its lane 0, in a fixed order. All lanes of the warp take part.
  template <typename V>
  __device__ V sum_lanes(V value) const {
    for (int distance = 16; distance > 0; distance /= 2) {
      const V other = __shfl_down_sync(kAllLanes, value, distance, kWarp);
      if (lane + distance < lanes) {
        value += other;
      }
    }
    return value;
  }

  // Sum over the slots, in the lanes of slot 0, in a fixed order. All lanes of the warp take part.
  template <typename V>
  __device__ V sum_slots(V value) const {
    V total = value;
    for (int other = 1; other < slots; ++other) {
      total += __shfl_sync(kAllLanes, value, (lane + other * lanes) % kWarp, kWarp);
    }
    return total;
  }
};

// The sums of one lane.
template <typename T, int Packs>
struct LaneSums {
  SumOf<T> values[Packs][kPackSize<T>];

  __device__ LaneSums() { clear(); }

  __device__ void clear() {
#pragma unroll
    for (int pack = 0; pack < Packs; ++pack) {
#pragma unroll
      for (int i = 0; i < kPackSize<T>; ++i) {
        values[pack][i] = 0;
      }
    }
  }

  __device__ void add_scaled(int pack, SumOf<T> weight, const Pack<T>& numbers) {
#pragma unroll
    for (int i = 0; i < kPackSize<T>; ++i) {
      values[pack][i] = fused_multiply_add(weight, static_cast<SumOf<T>>(numbers.values[i]), values[pack][i]);
    }
  }

  // Sums of one pack stand in 16-byte pieces: two of them where numbers are stored in two bytes.
  __device__ void store(int pack, SumOf<T>* target) const {
#pragma unroll
    for (int first = 0; first < kPackSize<T>; first += kPackSize<SumOf<T>>) {
      Pack<SumOf<T>> piece;
#pragma unroll
      for (int i = 0; i < kPackSize<SumOf<T>>; ++i) {
        piece.values[i] = values[pack][first + i];
      }
      store_pack(target + first, piece);
    }
  }
};

// ---- rows from images -------------------------------------------------------------------------------

template <typename T>
struct PackRowsArgs {
  const T* source;  // (outer, channels, inner)
  T* rows;          // (outer * inner, stride), the padding set to zero
  int64_t outer, inner;
  int channels, stride;
};

constexpr int kTransposeTile = 32;

template <typename T>
__global__ void __launch_bounds__(kThreads) pack_rows(PackRowsArgs<T> args) {
  __shared__ T tile[kTransposeTile][kTransposeTile + 1];
  const int column = threadIdx.x % kTransposeTile, first_row = threadIdx.x / kTransposeTile;
  constexpr int kRowStep = kThreads / kTransposeTile;
  const int64_t first_inner = static_cast<int64_t>(blockIdx.x) * kTransposeTile;
  const int first_channel = blockIdx.y * kTransposeTile;
  for (int64_t outer = blockIdx.z; outer < args.outer; outer += gridDim.z) {
    for (int row = first_row; row < kTransposeTile; row += kRowStep) {
      const int channel = first_channel + row;
      const int64_t inner = first_inner + column;
      const bool inside = channel < args.channels && inner < args.inner;
      tile[row][column] = inside ? args.source[(outer * args.channels + channel) * args.inner + inner] : T(0);
    }
    __syncthreads();
    for (int row = first_row; row < kTransposeTile; row += kRowStep) {
      const int channel = first_channel + column;
      const int64_t inner = first_inner + row;
      if (channel < args.stride && inner < args.inner) {
        args.rows[(outer * args.inner + inner) * args.stride + channel] = tile[column][row];
      }
    }
    __syncthreads();
  }
}

template <typename T, typename Launch>
void launch_pack_rows(const PackRowsArgs<T>& args, const Launch& launch) {
  const int64_t columns = (args.inner + kTransposeTile - 1) / kTransposeTile;
  const int rows = (args.stride + kTransposeTile - 1) / kTransposeTile;
  const int depth = static_cast<int>(args.outer < 65535 ? args.outer : 65535);
  launch(pack_rows<T>, GridSize{columns, rows, depth}, 0, args);
}

}  // namespace bev_ops
