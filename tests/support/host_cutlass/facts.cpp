// What CUTLASS makes of the linear head's kernels, by the host's C++ compiler: for test_hopper_cutlass.py.
//
//   facts kernels
// A line a tiling: its number, the tile's rows and columns, threads that share a tile, threads of a block, blocks of a
// cluster, stages, shared memory of a block, registers of a thread for the tile.
//
//   facts places
// By tiling, thread, product and register: the row and the column in the tile by CUTLASS, and by what the reductions
// take them for; as 16-bit numbers.
//
//   facts launch
// Reads FEATURES WEIGHT ROWS CLASSES WIDTH FEATURES_STRIDE WEIGHT_STRIDE MULTIPROCESSORS, the first two addresses. The
// answer, for tiles of 144 columns (each tiling takes four seconds to compile), is what is described to TMA, a line an
// operand: type, whether swizzled by 128 bytes, whether filled with zeros, address, and of each dimension size, stride
// in bytes and box; then the grid; then of which the launcher sees that the driver took it.
//
//   facts walk
// Reads ROWS CLASSES TILING. The answer is a line each: log2 of the swizzle and the blocks, then the row tile and class
// tile of every block's turn.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <vector>

// Named by device code, which is never called here.
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;
void __syncthreads();
void __syncwarp();

#include <cutlass/arch/wmma.h>
// CUTLASS describes operands to TMA for CUDA's compiler alone; of an older kind of instruction, above, it then wants
// more.
#define __CUDACC_VER_MAJOR__ 12
#define __CUDACC_VER_MINOR__ 8
#define CUTLASS_ENABLE_DIRECT_CUDA_DRIVER_CALL 1

#include "../../../csrc/cuda/hopper/head_kernels.cu"

// What host code of CUTLASS calls that is not called here.
extern "C" {
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return cudaErrorUnknown; }
cudaError_t cudaGetDevice(int*) { return cudaErrorUnknown; }
cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int) { return cudaErrorUnknown; }

// Tells what is described to TMA, in place of the driver; nothing at address 0, which is refused.
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill) {
  std::printf("%d %d %d %llu", int(type), int(swizzle == CU_TENSOR_MAP_SWIZZLE_128B),
              int(fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE), static_cast<unsigned long long>(uintptr_t(address)));
  for (cuuint32_t i = 0; i < rank; ++i)
    std::printf(" %llu %llu %u", static_cast<unsigned long long>(sizes[i]),
                static_cast<unsigned long long>(i == 0 ? 0 : strides[i - 1]), box[i]);
  std::printf("\n");
  if (address == nullptr) return CUDA_ERROR_INVALID_VALUE;
  map->opaque[1] = 1;
  return CUDA_SUCCESS;
}
}

namespace {

using dynams::HeadTile;

// One kernel of each tiling, of either type in turn.
template <HeadTile kTile>
using HeadOf = dynams::HeadKernel<std::conditional_t<static_cast<int>(kTile) % 2 == 0, dynams::BFloat, dynams::Half>,
                                  kTile, dynams::GapTask>;

template <class Ask>
void of_each_tile(Ask ask) {
  for (int number = 0; number < dynams::kHeadTiles; ++number)
    dynams::for_tile(static_cast<HeadTile>(number), [&](auto tile) { ask(number, HeadOf<decltype(tile)::value>()); });
}

void tell_kernels() {
  of_each_tile([](int number, auto of) {
    using Head = decltype(of);
    using Kernel = typename Head::Kernel;
    const auto tile = typename Head::Tile{};
    std::printf("%d %d %d %d %d %d %d %d %d\n", number, int(cute::size<0>(tile)), int(cute::size<1>(tile)),
                int(cute::size(typename Head::Product{})), int(Kernel::get_block_shape().x),
                int(cute::size(typename Head::Cluster{})), dynams::kStages<typename Head::Shape>,
                int(Kernel::SharedStorageSize),
                int(cute::size(cute::partition_fragment_C(typename Head::Product{}, cute::take<0, 2>(tile)))));
  });
}

// In place of accumulators: which of them is asked for.
struct Asked {
  int v, product;
  float none;
  float& operator()(int v_, int product_, int) {
    v = v_;
    product = product_;
    return none;
  }
};

struct Place {
  int16_t row = -1, column = -1;
};

void tell_places() {
  of_each_tile([](int, auto of) {
    using Head = decltype(of);
    using Shape = typename Head::Shape;
    const typename Head::Product product;
    const auto places = cute::make_identity_tensor(cute::take<0, 2>(typename Head::Tile{}));
    std::vector<Place> told;
    for (int thread = 0; thread < int(cute::size(product)); ++thread) {
      Place claimed[Shape::kProducts][Shape::kColumns / 2];
      const dynams::TilePlace<Shape> at(thread);
      for (int row = 0; row < Shape::kRows; ++row)
        for (int value = 0; value < Shape::kValues; ++value) {
          Asked asked;
          dynams::WgmmaLogits<Asked>{asked}.at(row, value);
          claimed[asked.product][asked.v] = {int16_t(at.row(row)), int16_t(at.column(value))};
        }
      const auto own = product.get_slice(thread).partition_C(places);
      for (int repeat = 0; repeat < int(cute::size<1>(own)); ++repeat)
        for (int v = 0; v < int(cute::size<0>(own)); ++v) {
          const auto place = own(v, repeat, 0);
          told.push_back({int16_t(cute::get<0>(place)), int16_t(cute::get<1>(place))});
          told.push_back(claimed[repeat][v]);
        }
    }
    std::fwrite(told.data(), sizeof(told[0]), told.size(), stdout);
  });
}

template <class Head>
void tell_walk(int rows, int classes) {
  using Scheduler = cutlass::gemm::kernel::detail::PersistentTileSchedulerSm90;
  using Params = Scheduler::Params;
  Scheduler::Arguments arguments;
  arguments.max_swizzle_size = dynams::swizzle_of(dynams::quotient_above(rows, Head::Shape::kTileRows),
                                                  dynams::quotient_above(classes, Head::Shape::kColumns));
  const Params params =
      Scheduler::to_underlying_arguments(cute::make_shape(rows, classes, 8, 1), typename Head::Tile{},
                                         typename Head::Cluster{}, cutlass::KernelHardwareInfo{}, arguments);
  std::printf("%d %d", params.log_swizzle_size_, int(params.blocks_per_problem_));
  constexpr bool kTurns = std::is_same_v<typename Head::Scheduler, dynams::InTurns>;
  for (uint64_t turn = 0; !kTurns && turn < params.blocks_per_problem_; ++turn) {
    // The block's place in its cluster of two row tiles, of which one dimension of the grid is made.
    const uint64_t of_cluster = params.raster_order_ == Params::RasterOrder::AlongN ? turn % 2 : 0;
    const auto [row, column] = Scheduler::get_work_idx_m_and_n(
        params.divmod_cluster_shape_minor_.divide(turn), params.divmod_cluster_shape_major_,
        params.divmod_cluster_shape_minor_, params.divmod_cluster_blk_major_, params.log_swizzle_size_,
        params.raster_order_, of_cluster, 0);
    std::printf(" %d %d", int(row), int(column));
  }
  if constexpr (kTurns) {
    // What a grid of seven clusters takes, in the order of all blocks' turns.
    using Turned = dynams::TurnsScheduler<typename Head::Cluster>;
    std::vector<dynams::Turns> clusters;
    for (uint32_t cluster = 0; cluster < 7; ++cluster) clusters.push_back(Turned::turns_of(params, cluster, 7));
    for (bool any = true; any;) {
      any = false;
      for (dynams::Turns& turns : clusters)
        if (turns.is_tile()) {
          for (int block = 0; block < 2; ++block) {
            const auto tile = Turned::tile_of(params, turns, block, 0);
            std::printf(" %d %d", tile.M_idx, tile.N_idx);
          }
          turns.advance();
          any = true;
        }
    }
  }
  std::printf("\n");
}

void tell_launch() {
  dynams::HopperHead head{};
  long long features, weight, rows, classes, width, features_stride, weight_stride;
  int multiprocessors;
  if (std::scanf("%lld %lld %lld %lld %lld %lld %lld %d", &features, &weight, &rows, &classes, &width, &features_stride,
                 &weight_stride, &multiprocessors) != 8)
    return;
  head.features = reinterpret_cast<const void*>(features);
  head.weight = reinterpret_cast<const void*>(weight);
  head.rows = rows;
  head.classes = classes;
  head.width = width;
  head.features_stride = features_stride;
  head.weight_stride = weight_stride;
  using Head = HeadOf<HeadTile::k128x144>;
  const auto params = Head::params_of(head, dynams::GapTask{}, multiprocessors);
  const dim3 grid = Head::Kernel::get_grid_shape(params);
  std::printf("%u %u %u\n%d %d\n", grid.x, grid.y, grid.z, int(dynams::is_described(params.mainloop.tma_load_a)),
              int(dynams::is_described(params.mainloop.tma_load_b)));
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  if (std::strcmp(arguments[1], "kernels") == 0) tell_kernels();
  if (std::strcmp(arguments[1], "places") == 0) tell_places();
  if (std::strcmp(arguments[1], "launch") == 0) tell_launch();
  if (std::strcmp(arguments[1], "walk") != 0) return 0;
  for (int rows, classes, tile; std::scanf("%d %d %d", &rows, &classes, &tile) == 3;)
    dynams::for_tile(static_cast<HeadTile>(tile),
                     [&](auto of) { tell_walk<HeadOf<decltype(of)::value>>(rows, classes); });
}
