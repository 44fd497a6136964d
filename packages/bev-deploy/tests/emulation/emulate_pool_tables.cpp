// Runs the CUDA source of the pooling plugin on the CPU, behind a plain C function for the tests. It returns an empty
// string, or what went wrong.
#define BEV_OPS_CUDA_RUNTIME "cuda_votes.h"
#include <algorithm>

inline int __ffs(int value) { return __builtin_ffs(value); }

#include "pool_tables.cuh"

#include <torch/headeronly/util/Half.h>

namespace {

// `inputs` are the pointers of PoolArgs up to cell_row; `sizes` its numbers, in order.
template <typename T>
void pool(const void* const* inputs, const int* sizes, unsigned blocks_x, unsigned blocks_y, void* cells) {
  const auto table = [&](int i) { return static_cast<const int*>(inputs[i]); };
  const bev_deploy::PoolArgs<T> args{static_cast<const T*>(inputs[0]),
                                     static_cast<const T*>(inputs[1]),
                                     table(2),
                                     table(3),
                                     table(4),
                                     table(5),
                                     table(6),
                                     table(7),
                                     table(8),
                                     table(9),
                                     static_cast<T*>(cells),
                                     sizes[0],
                                     sizes[1],
                                     sizes[2],
                                     sizes[3],
                                     sizes[4],
                                     sizes[5],
                                     sizes[6],
                                     sizes[7],
                                     sizes[8],
                                     sizes[9]};
  emulator::launch({blocks_x, blocks_y, 1}, bev_deploy::kThreads, 0, [&] { bev_deploy::pool_tables(args); });
}

}  // namespace

extern "C" const char* emulate_pool_tables(int order, bool half, const void* const* inputs, const int* sizes,
                                           unsigned blocks_x, unsigned blocks_y, void* cells) {
  static std::string message;
  message.clear();
  emulator::order = static_cast<emulator::Order>(order);
  try {
    (half ? pool<torch::headeronly::Half> : pool<float>)(inputs, sizes, blocks_x, blocks_y, cells);
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
