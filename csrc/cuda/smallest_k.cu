// Launches of the selection kernel of common/smallest_k_block.h.
//
// Two kernels a type. Where every multiprocessor can hold its share of the values in shared memory, one block of 1024
// threads on each: one read of the values and one write of the answer, at two barriers of the grid of which the first
// costs nothing. Beyond, two blocks of 512 on each, so that one reads while the other writes: two reads.
#include <algorithm>
#include <mutex>

#include "../common/smallest_k_block.h"
#include "../common/smallest_k_task.h"
#include "grid_machine.cuh"
#include "smallest_k.h"

namespace dynams {
namespace {

// Chunks of four values a lane that a warp waits for at once. Four of 16 bytes by 1024 threads are 64 KB of a
// multiprocessor, more than twice what the memory's latency asks, and take slices of 15872 in one go. Doubles take two
// registers.
template <class Order>
constexpr int kChunksOf = sizeof(typename Order::Raw) == 8 ? 2 : 4;

// 2048 bins take 11 bits of a key a round: three rounds without luck for 32 bits. A sample of 3968 makes a bracket of a
// sixteenth of the values, of which a bin has about forty among 1.28 million; one of 992 left bins of more than 256
// there, and a second round. To rank 256 takes about as long as one more round, so no more are ranked. The sample is
// read by every block: it must stay small beside a slice, and is larger where slices are.
template <class Order>
using CachedShape = SelectionShape<Order, uint32_t, true, 1024, 32, 11, kChunksOf<Order>, 4, 256>;
template <class Order>
using StreamedShape = SelectionShape<Order, unsigned long long, false, 512, 32, 11, kChunksOf<Order>,
                                     sizeof(typename Order::Raw) == 8 ? 8 : 16, 256>;

constexpr int kStreamedBlocks = 2;         // of a multiprocessor
constexpr uint32_t kSmallestSlice = 4096;  // below, another block adds more to the barriers than it takes off the work
constexpr int64_t kSliceUnit = 128;        // a warp's chunk: no part of a full slice is ragged
// Shared memory of a block beside what is always there, on the architecture that has most and on that which has least.
constexpr size_t kMostShared = 212 << 10;
constexpr size_t kLeastShared = 84 << 10;

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
  using Shared = SelectionShared<GridMachine, Shape>;
  static_assert(kMostShared + sizeof(Shared) <= 227 << 10 && kLeastShared + sizeof(Shared) <= 99 << 10);
  __shared__ Shared shared;
  extern __shared__ __align__(16) unsigned char more[];
  GridMachine machine;
  BlockSelection<GridMachine, Shape>(machine, task, shared, more).run();
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
  // Several times the share of a slice that the bracket takes. Where a block has more in it, one more round is the
  // price, or, streamed, one more read of its slice.
  const uint32_t list = Shape::kCached ? Shape::kTile / 8 * 3 : std::max(kSmallestSlice, task.slice / 16);
  const uint32_t places = std::max(kSmallestSlice, Shape::kCached ? task.slice / 8 : 0);
  task.list_capacity = std::min(task.slice, list);
  task.place_capacity = std::min(task.list_capacity, places);
  set_sample(task, Shape::kCached ? 3.7 : 4.2);
  return task;
}

// Whether slices are cached where a block has so much shared memory.
template <class Order>
bool fits(int64_t count, int64_t blocks, size_t shared) {
  const SelectionTask<CachedShape<Order>> task = plan<CachedShape<Order>>(count, 1, blocks);
  return task.slice <= kLargestCachedSlice && shared_bytes(task) <= shared;
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
  if (fits<Order>(count, multiprocessors, kMostShared))
    bytes = scratch_bytes<CachedShape<Order>>(count, multiprocessors);
  if (!fits<Order>(count, multiprocessors, kLeastShared))
    for (int blocks = 1; blocks <= kStreamedBlocks; ++blocks)
      bytes = std::max(bytes, scratch_bytes<StreamedShape<Order>>(count, int64_t(multiprocessors) * blocks));
  return bytes;
}

// What a device allows the kernels of a type.
struct Limits {
  size_t shared = 0;        // bytes of a block beside what is always there
  int streamed_blocks = 0;  // that a multiprocessor holds
};

// Lets a kernel have all the shared memory there is: a limit set by each launch for itself would be that of the last
// one by the time a graph of several is made.
template <class Shape>
cudaError_t raise_limit(int device, size_t* shared) {
  const void* kernel = reinterpret_cast<const void*>(&select_smallest<Shape>);
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return error;
  int most = 0;
  error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  most -= static_cast<int>(attributes.sharedSizeBytes);
  *shared = std::min(kMostShared, static_cast<size_t>(most));
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

// Constants of the current device, asked for once: no call asks the driver again.
template <class Order>
cudaError_t limits_here(Limits* out) {
  constexpr int kMostDevices = 64;
  static std::mutex mutex;
  static Limits known[kMostDevices];
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  if (device >= kMostDevices) return cudaErrorInvalidDevice;
  const std::lock_guard<std::mutex> lock(mutex);
  Limits& limits = known[device];
  if (limits.streamed_blocks == 0) {
    using Streamed = StreamedShape<Order>;
    size_t streamed_shared = 0;
    error = raise_limit<CachedShape<Order>>(device, &limits.shared);
    if (error == cudaSuccess) error = raise_limit<Streamed>(device, &streamed_shared);
    int blocks = 0;
    if (error == cudaSuccess)
      error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, &select_smallest<Streamed>, Streamed::kThreads,
                                                            shared_bytes(SelectionTask<Streamed>{}));
    if (error != cudaSuccess) return error;
    if (blocks == 0) return cudaErrorLaunchOutOfResources;
    limits.streamed_blocks = std::min(blocks, kStreamedBlocks);
  }
  *out = limits;
  return cudaSuccess;
}

// Capacities can only be lowered: the scratch is that of the plan.
template <class Shape>
void force(const SelectionForce& wish, SelectionTask<Shape>* task) {
  if (wish.sample_high != 0) {
    task->sample_low = wish.sample_low;
    task->sample_high = wish.sample_high;
  }
  const auto lower = [](uint32_t* capacity, uint32_t wanted) {
    if (wanted != 0) *capacity = std::min(*capacity, std::max<uint32_t>(wanted, Shape::kMembers));
  };
  lower(&task->list_capacity, wish.list_capacity);
  lower(&task->place_capacity, wish.place_capacity);
  task->place_capacity = std::min(task->place_capacity, task->list_capacity);
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
  if (request.force != nullptr) force(*request.force, &task);
  lay_out(task, static_cast<size_t>(blocks), request.scratch);
  const size_t shared = shared_bytes(task);
  const void* kernel = reinterpret_cast<const void*>(&select_smallest<Shape>);
  void* arguments[] = {&task};
  const dim3 grid(static_cast<unsigned>(blocks)), block(Shape::kThreads);
  // One block has nobody to wait for, and a plain launch is the quicker one.
  if (blocks == 1) return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
  return cudaLaunchCooperativeKernel(kernel, grid, block, arguments, shared, stream);
}

template <class Order>
cudaError_t select(const CudaSmallestK& request, int multiprocessors, cudaStream_t stream) {
  Limits limits;
  const cudaError_t error = limits_here<Order>(&limits);
  if (error != cudaSuccess) return error;
  if (fits<Order>(request.count, multiprocessors, limits.shared))
    return launch<CachedShape<Order>>(request, multiprocessors, stream);
  return launch<StreamedShape<Order>>(request, int64_t(multiprocessors) * limits.streamed_blocks, stream);
}

}  // namespace

int64_t smallest_k_scratch(DType dtype, int64_t count, int multiprocessors) {
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
  Limits limits;
  cudaError_t error = limits_here<Float32Order>(&limits);
  if (error == cudaSuccess) error = limits_here<Float64Order>(&limits);
  if (error == cudaSuccess) error = limits_here<Float16Order>(&limits);
  if (error == cudaSuccess) error = limits_here<BFloat16Order>(&limits);
  return error;
}

}  // namespace dynams
