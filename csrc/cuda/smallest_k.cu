// Launches of the selection kernel of common/smallest_k_block.h.
//
// Two kernels a type. Where every multiprocessor can hold its share of the values in shared memory, one block of 1024
// threads on each: one read of the values and one write of the answer, at two barriers of the grid of which the first
// costs nothing. Beyond, two blocks of 512 on each, so that one reads while the other writes: two reads.
#include <algorithm>

#include "../common/smallest_k_block.h"
#include "../common/smallest_k_task.h"
#include "grid_machine.cuh"
#include "smallest_k.h"

namespace dynams {
namespace {

// Values that a thread waits for at once. 12 of four bytes by 1024 threads are 48 KB of a multiprocessor, twice what
// the memory's latency asks; 16, where the registers allow it, take slices of 15872 in one go. Doubles take two
// registers.
template <class Order, bool kCached>
constexpr int kItemsOf = sizeof(typename Order::Raw) == 8 ? 8 : (kCached ? 16 : 12);

// 2048 bins take 11 bits of a key a round: three rounds without luck for 32 bits. A sample of 992 makes a bracket of a
// tenth of the values, of which a bin has about a hundred among a million; to rank 256 takes about as long as one more
// round, so no more are ranked. The sample is read by every block: it must stay small beside a slice, and is larger
// where slices are.
template <class Order>
using CachedShape = SelectionShape<Order, uint32_t, true, 1024, 32, 11, kItemsOf<Order, true>, 1, 256>;
template <class Order>
using StreamedShape = SelectionShape<Order, unsigned long long, false, 512, 32, 11, kItemsOf<Order, false>,
                                     sizeof(typename Order::Raw) == 8 ? 8 : 16, 256>;

constexpr int kStreamedBlocks = 2;         // of a multiprocessor
constexpr uint32_t kSmallestSlice = 4096;  // below, another block adds more to the barriers than it takes off the work
constexpr int64_t kSliceUnit = 64;         // slices begin where the memory's lines do, if the values do
constexpr size_t kLargestCache = 200 << 10;  // of 227 KB of shared memory a block; beside it lie 13 KB of other data
constexpr size_t kSmallestCache = 80 << 10;  // every architecture served has 99 KB

// How many blocks of a multiprocessor the registers must suffice for. On architecture 12.0 the compiler cannot do with
// 64 for the streamed kernel; its smaller memory systems are kept busy by one block.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
template <class Shape>
constexpr int kBlocksAtLeast = 1;
#else
template <class Shape>
constexpr int kBlocksAtLeast = Shape::kCached ? 1 : kStreamedBlocks;
#endif

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, kBlocksAtLeast<Shape>)
    select_smallest(const __grid_constant__ SelectionTask<Shape> task) {
  __shared__ SelectionShared<GridMachine, Shape> shared;
  extern __shared__ __align__(16) unsigned char cache[];
  GridMachine machine;
  BlockSelection<GridMachine, Shape>(machine, task, shared, reinterpret_cast<typename Shape::Raw*>(cache)).run();
}

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The task but for its pointers, for a grid of at most so many blocks; `blocks` becomes how many have a slice.
template <class Shape>
SelectionTask<Shape> plan(int64_t count, int64_t k, int64_t& blocks) {
  SelectionTask<Shape> task{};
  task.count = count;
  task.k = k;
  blocks = std::max<int64_t>(1, std::min(blocks, divide_up(count, kSmallestSlice)));
  const int64_t slice = divide_up(divide_up(count, blocks), kSliceUnit) * kSliceUnit;
  blocks = divide_up(count, slice);
  task.slice = static_cast<uint32_t>(std::min<int64_t>(slice, kLargestSlice + 1));
  // Twice the share of a slice that the bracket takes. Where a block has more, one more round is the price, or,
  // streamed, one more read of its slice.
  const uint32_t share = task.slice / (Shape::kCached ? 2 : 16);
  task.save_capacity = std::min(task.slice, std::max(kSmallestSlice, share));
  task.place_capacity = std::min(task.save_capacity, Shape::kCached ? task.save_capacity : kSmallestSlice);
  set_sample(task, Shape::kCached ? 3.7 : 4.2);
  return task;
}

template <class Order>
size_t cache_bytes(int64_t count, int64_t blocks) {
  int64_t used = blocks;
  return plan<CachedShape<Order>>(count, 1, used).slice * sizeof(typename Order::Raw);
}

template <class Shape>
size_t scratch_bytes(int64_t count, int64_t blocks) {
  SelectionTask<Shape> task = plan<Shape>(count, 1, blocks);
  return lay_out(task, static_cast<size_t>(blocks), nullptr);
}

// For every way the launch may go: it knows the device's shared memory and how many blocks fit, this does not.
template <class Order>
size_t scratch_of(int64_t count, int multiprocessors) {
  size_t bytes = 0;
  const size_t cache = cache_bytes<Order>(count, multiprocessors);
  if (cache <= kLargestCache) bytes = scratch_bytes<CachedShape<Order>>(count, multiprocessors);
  if (cache > kSmallestCache)
    for (int blocks = 1; blocks <= kStreamedBlocks; ++blocks)
      bytes = std::max(bytes, scratch_bytes<StreamedShape<Order>>(count, int64_t(multiprocessors) * blocks));
  return bytes;
}

template <class Shape>
cudaError_t launch(const CudaSmallestK& request, int64_t most_blocks, cudaStream_t stream) {
  using Raw = typename Shape::Raw;
  int64_t blocks = most_blocks;
  SelectionTask<Shape> task = plan<Shape>(request.count, request.k, blocks);
  if (task.slice > kLargestSlice) return cudaErrorInvalidValue;
  task.values = static_cast<const Raw*>(request.values);
  task.out_values = static_cast<Raw*>(request.out_values);
  task.out_indices = request.out_indices;
  task.out_mask = request.out_mask;
  lay_out(task, static_cast<size_t>(blocks), request.scratch);
  const size_t cache = Shape::kCached ? task.slice * sizeof(Raw) : 0;
  const void* kernel = reinterpret_cast<const void*>(&select_smallest<Shape>);
  if (cache + sizeof(SelectionShared<GridMachine, Shape>) > 48 << 10) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(cache));
    if (error != cudaSuccess) return error;
  }
  void* arguments[] = {&task};
  const dim3 grid(static_cast<unsigned>(blocks)), block(Shape::kThreads);
  // One block has nobody to wait for, and a plain launch is the quicker one.
  if (blocks == 1) return cudaLaunchKernel(kernel, grid, block, arguments, cache, stream);
  return cudaLaunchCooperativeKernel(kernel, grid, block, arguments, cache, stream);
}

template <class Order>
cudaError_t select(const CudaSmallestK& request, int multiprocessors, cudaStream_t stream) {
  int device = 0, shared = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  const size_t cache = cache_bytes<Order>(request.count, multiprocessors);
  const size_t beside = sizeof(SelectionShared<GridMachine, CachedShape<Order>>);
  if (cache <= std::min(kLargestCache, static_cast<size_t>(shared) - beside))
    return launch<CachedShape<Order>>(request, multiprocessors, stream);
  int blocks = 0;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, &select_smallest<StreamedShape<Order>>,
                                                        StreamedShape<Order>::kThreads, 0);
  if (error != cudaSuccess) return error;
  if (blocks == 0) return cudaErrorLaunchOutOfResources;
  return launch<StreamedShape<Order>>(request, int64_t(multiprocessors) * std::min(blocks, kStreamedBlocks), stream);
}

template <class Order>
cudaError_t preload() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, &select_smallest<CachedShape<Order>>);
  return error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, &select_smallest<StreamedShape<Order>>);
}

}  // namespace

int64_t smallest_k_scratch(DType dtype, int64_t count, int64_t, int multiprocessors) {
  switch (dtype) {
    case DType::kFloat64:
      return static_cast<int64_t>(scratch_of<Float64Order>(count, multiprocessors));
    case DType::kFloat16:
      return static_cast<int64_t>(scratch_of<Float16Order>(count, multiprocessors));
    case DType::kBFloat16:
      return static_cast<int64_t>(scratch_of<BFloat16Order>(count, multiprocessors));
    default:
      return static_cast<int64_t>(scratch_of<Float32Order>(count, multiprocessors));
  }
}

cudaError_t smallest_k(const CudaSmallestK& task, int multiprocessors, cudaStream_t stream) {
  switch (task.dtype) {
    case DType::kFloat64:
      return select<Float64Order>(task, multiprocessors, stream);
    case DType::kFloat16:
      return select<Float16Order>(task, multiprocessors, stream);
    case DType::kBFloat16:
      return select<BFloat16Order>(task, multiprocessors, stream);
    default:
      return select<Float32Order>(task, multiprocessors, stream);
  }
}

cudaError_t preload_smallest_k() {
  cudaError_t error = preload<Float32Order>();
  if (error == cudaSuccess) error = preload<Float64Order>();
  if (error == cudaSuccess) error = preload<Float16Order>();
  if (error == cudaSuccess) error = preload<BFloat16Order>();
  return error;
}

}  // namespace dynams
