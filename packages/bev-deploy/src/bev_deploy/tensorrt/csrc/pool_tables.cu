// The entries of the pooling plugin: pointers of the inputs, sizes, pointer of the output, in the order in which TensorRT
// passes them. bev_deploy.tensorrt.kernel lists the same order.
#include "pool_tables.cuh"

#include <cuda_fp16.h>

#define BEV_POOL_KERNEL(NAME, T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(bev_deploy::kThreads)                                                   \
      NAME(const T* depth, const T* columns, const int* run_first, const int* run_end, const int* point_depth,         \
           const int* point_pixel, const int* sums_1, const int* sums_2, const int* sums_3, const int* cell_row,       \
           int bins, int rows, int width, int channels, int runs, int points, int sums_1_rows, int sums_2_rows,        \
           int width_3, int cell_count, T* cells) {                                                                    \
    bev_deploy::pool_tables(bev_deploy::PoolArgs<T>{depth,       columns,     run_first, run_end, point_depth,         \
                                                    point_pixel, sums_1,      sums_2,    sums_3,  cell_row,            \
                                                    cells,       bins,        rows,      width,   channels,            \
                                                    runs,        points,      sums_1_rows, sums_2_rows, width_3,       \
                                                    cell_count});                                                      \
  }

BEV_POOL_KERNEL(bev_pool_float32, float)
BEV_POOL_KERNEL(bev_pool_float16, __half)
