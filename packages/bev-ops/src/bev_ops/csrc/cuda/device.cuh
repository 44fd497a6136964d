// What the kernels need from the device: 16-byte packs, groups of lanes, dynamic shared memory.
//
// Kernels stand in headers, apart from PyTorch and from kernel launches, so that the tests can run the same source on a
// machine without a GPU: they set BEV_OPS_CUDA_RUNTIME to a header that stands in for the CUDA runtime.
#pragma once

#ifndef BEV_OPS_CUDA_RUNTIME
#define BEV_OPS_CUDA_RUNTIME <cuda_runtime.h>
#endif
#include BEV_OPS_CUDA_RUNTIME

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_pipeline.h>
#endif

namespace bev_ops {

#ifdef __CUDACC__
template <typename T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}
#endif

// Type of sums over numbers stored as T.
template <typename T>
using SumOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Channels that one 16-byte load fetches.
template <typename T>
constexpr int kPackSize = 16 / static_cast<int>(sizeof(T));

template <typename T>
struct alignas(16) Pack {
  T values[kPackSize<T>];
};

template <typename T>
__device__ Pack<T> load_pack(const T* source) {
  const uint4 raw = __ldg(reinterpret_cast<const uint4*>(source));
  Pack<T> pack;
  static_assert(sizeof(pack) == sizeof(raw), "a pack is one 16-byte load");
  memcpy(&pack, &raw, sizeof(raw));
  return pack;
}

template <typename T>
__device__ void store_pack(T* target, const Pack<T>& pack) {
  uint4 raw;
  memcpy(&raw, &pack, sizeof(raw));
  *reinterpret_cast<uint4*>(target) = raw;
}

// A kernel launched to overlap with the one before it (Launcher::overlapping) may start before that one ends. What that
// one writes may be read only after `wait_for_previous`; by plain loads, since the compiler moves __ldg ahead.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel start, if it was launched to overlap, as soon as there is room for it.
__device__ inline void start_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ inline float fused_multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double fused_multiply_add(double a, double b, double c) { return fma(a, b, c); }

// `Lanes` neighbouring threads of a warp that work on one cell or pixel; a power of two.
template <int Lanes>
class LaneGroup {
  unsigned mask_;

 public:
  __device__ LaneGroup() {
    constexpr unsigned kAll = Lanes == 32 ? 0xffffffffu : (1u << (Lanes % 32)) - 1u;
    mask_ = kAll << (threadIdx.x % 32 / Lanes * Lanes);
  }

  __device__ int lane() const { return threadIdx.x % Lanes; }
  __device__ int index() const { return threadIdx.x / Lanes; }  // of the group in its block

  template <typename V>
  __device__ V broadcast(V value, int from) const {
    return __shfl_sync(mask_, value, from, Lanes);
  }

  // Sum over the group, in every lane, in a fixed order.
  template <typename V>
  __device__ V sum(V value) const {
#pragma unroll
    for (int distance = Lanes / 2; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(mask_, value, distance, Lanes);
    }
    return value;
  }
};

}  // namespace bev_ops
