// Products of small matrices of 16-bit numbers by the tensor cores of a warp; compute capability 8.0 and newer.
//
// A left part holds 16 rows of 16 numbers, a right part 16 rows of 8, the sums 16 rows of 8 in float32. Lane 4 * g + t
// holds of the sums the numbers 2t and 2t + 1 of rows g and g + 8, as mma.m16n8k16 has it.
#pragma once

#include "device.cuh"

#ifdef __CUDACC__
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace bev_ops {

// The right parts of two products that lie side by side, from 16 rows of 16 numbers in shared memory: lane i says where
// the eight numbers stand of row i % 16, the second eight from lane 16 on.
__device__ inline void load_right_parts(unsigned (&parts)[4], const void* numbers) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(numbers));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
               : "r"(address)
               : "memory");
#endif
}

template <typename T>
__device__ void multiply_add(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<T, torch::headeronly::Half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
  }
#endif
}

}  // namespace bev_ops
#endif
