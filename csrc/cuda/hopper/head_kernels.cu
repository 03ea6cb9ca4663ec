// The product of features and weight by CUTLASS's persistent Hopper kernel, with an end of our own to every tile: the
// logits stay in the registers that wgmma left them in, and a reduction (gap.cuh, states.cuh) takes the place of a
// store.
//
// TMA brings tiles of both operands to shared memory, those of the weight to two blocks at once (a cluster), 4 to 7
// steps ahead of the tensor cores. In ping-pong one warpgroup multiplies its tile while the other reduces the one
// before, so the reduction costs nothing while it is shorter than the product: 1,100 to 3,000 cycles against 8 a
// feature. Slim weights need no copy: TMA is told the width and the stride of whole rows, and reads zeros past the
// width.
//
// All kernels are one source: half of its 90 s of compilation are CUTLASS's headers.

// Kernels may be brought up while those before them in the stream still run, and wait for them (linear_head.cu).
#define CUTLASS_ENABLE_GDC_FOR_SM90 1

// The kernel's parts by name, not CUTLASS's lists of all there are, which take as long to compile as the kernels.
#include <cutlass/cutlass.h>
#include <cutlass/device_kernel.h>
#include <cutlass/gemm/gemm.h>
#include <cutlass/gemm/kernel/gemm_universal_decl.h>

#include <algorithm>
#include <cute/tensor.hpp>
#include <cutlass/epilogue/collective/detail.hpp>
#include <cutlass/gemm/collective/collective_mma_decl.hpp>
#include <cutlass/gemm/collective/sm90_mma_tma_gmma_ss_warpspecialized.hpp>
#include <cutlass/gemm/dispatch_policy.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_cooperative.hpp>
#include <cutlass/gemm/kernel/sm90_gemm_tma_warpspecialized_pingpong.hpp>
#include <type_traits>
// After the rest, of which these two make use: products of 144 columns.
#include <cute/arch/mma_sm90_gmma_ext.hpp>
#include <cute/atom/mma_traits_sm90_gmma_ext.hpp>

#include "../row_plan.h"
#include "head_kernels.h"
#include "reduce_tile.cuh"
#include "swizzle.h"
#include "turns_scheduler.cuh"

namespace dynams {

using Pingpong = cutlass::gemm::KernelTmaWarpSpecializedPingpong;
using Cooperative = cutlass::gemm::KernelTmaWarpSpecializedCooperative;

// Steps of 64 features that are in shared memory at once: as many as a block's 227 KB hold, but for barriers.
template <class Shape>
constexpr int kStages = ((227 << 10) - 1024) / ((Shape::kTileRows + Shape::kColumns) * 64 * 2);

// What CUTLASS calls at the end of every tile, as its epilogue.
template <class Shape, class Element, class Task>
class Reduction {
 public:
  struct Arguments {
    Task task;
    const Element* bias;
  };
  using Params = Arguments;
  struct SharedStorage {};
  // Nothing is loaded or stored by CUTLASS; the kernel asks for the types all the same.
  using ElementC = void;
  using ElementD = float;
  using StrideC = cute::Stride<int64_t, cute::_1, int64_t>;
  using StrideD = StrideC;

  CUTLASS_HOST_DEVICE explicit Reduction(const Params& params) : params_(params) {}

  template <class Problem>
  static constexpr Params to_underlying_arguments(const Problem&, const Arguments& arguments, void*) {
    return arguments;
  }
  template <class Problem>
  static size_t get_workspace_size(const Problem&, const Arguments&) {
    return 0;
  }

  template <class Problem, class Block, class Place, class Accumulators, class Product, class Residue>
  CUTLASS_DEVICE void operator()(const Problem&, const Block&, const Place& place, Accumulators& accumulators,
                                 const Product&, const Residue& left, int thread, char*) const {
    reduce_tile<Shape>(accumulators, cute::get<0>(place), cute::get<1>(place), cute::get<0>(left), cute::get<1>(left),
                       params_.bias, thread, params_.task);
  }

 private:
  const Params& params_;
};

// The same where a warp of those that load has a part in it: CUTLASS has one to load what an epilogue adds.
template <class Shape, class Element, class Task>
class ReductionAside {
 public:
  struct Arguments {
    Task task;
    const Element* bias;
  };
  using Params = Arguments;
  using SharedStorage = Aside<Shape>;
  using ElementC = void;
  using ElementD = float;
  using StrideC = cute::Stride<int64_t, cute::_1, int64_t>;
  using StrideD = StrideC;

  CUTLASS_HOST_DEVICE explicit ReductionAside(const Params& params) : params_(params) {}

  template <class Problem>
  static constexpr Params to_underlying_arguments(const Problem&, const Arguments& arguments, void*) {
    return arguments;
  }
  template <class Problem>
  static size_t get_workspace_size(const Problem&, const Arguments&) {
    return 0;
  }

  template <class Problem, class Block, class Place, class Accumulators, class Product, class Residue>
  CUTLASS_DEVICE void operator()(const Problem&, const Block&, const Place&, Accumulators& accumulators, const Product&,
                                 const Residue& left, int thread, char* aside) {
    const int rows_left = cute::get<0>(left), classes_left = cute::get<1>(left);
    end_tile<Shape>(accumulators, rows_left, classes_left, thread, !begun_, *reinterpret_cast<Aside<Shape>*>(aside));
    begun_ |= rows_left > 0 && classes_left > 0;
  }

 protected:
  const Params& params_;
  bool begun_ = false;
};

template <class Shape, class Element, class Task>
class EpilogueAside : public cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<
                          ReductionAside<Shape, Element, Task>> {
  using Base =
      cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<ReductionAside<Shape, Element, Task>>;

 public:
  using Base::Base;

  CUTLASS_DEVICE bool is_producer_load_needed() const { return true; }
  // By the whole warp, for every tile in turn.
  template <class Problem, class Block, class Place, class Product>
  CUTLASS_DEVICE auto load(typename Base::LoadPipeline, typename Base::LoadPipelineState state, const Problem& problem,
                           const Block&, const Place& place, const Product&, int lane, Aside<Shape>& aside, int = -1) {
    const int row_tile = cute::get<0>(place), class_tile = cute::get<1>(place);
    const int rows_left = cute::get<0>(problem) - row_tile * Shape::kTileRows;
    const int classes_left = cute::get<1>(problem) - class_tile * Shape::kColumns;
    attend_tile<Shape>(row_tile, class_tile, rows_left, classes_left, this->params_.bias, lane, aside,
                       this->params_.task);
    return state;
  }
};

template <class Element>
using CutlassElement = std::conditional_t<std::is_same_v<Element, Half>, cutlass::half_t, cutlass::bfloat16_t>;

// The tensor cores' instruction for so many columns. 144 is not among the shapes that CUTLASS selects by itself: to
// enable its extended shapes costs 50 s of compilation, most of it for sparse operands.
template <class Operand, int kColumns>
struct InstructionOf {
  using Tile = cute::Shape<cute::_64, cute::Int<kColumns>, cute::_64>;
  using Type = decltype(cute::GMMA::ss_op_selector<Operand, Operand, float, Tile>());
};
template <>
struct InstructionOf<cutlass::bfloat16_t, 144> {
  using Type = cute::SM90::GMMA::MMA_64x144x16_F32BF16BF16_SS<cute::GMMA::Major::K, cute::GMMA::Major::K>;
};
template <>
struct InstructionOf<cutlass::half_t, 144> {
  using Type = cute::SM90::GMMA::MMA_64x144x16_F32F16F16_SS<cute::GMMA::Major::K, cute::GMMA::Major::K>;
};

// Whether the driver made a copy's descriptor: CUTLASS leaves one that it refused all zero, and goes on.
template <class Copy>
bool is_described(const Copy& copy) {
  const auto bytes = reinterpret_cast<const unsigned char*>(copy.get_tma_descriptor());
  return std::any_of(bytes, bytes + sizeof(cute::TmaDescriptor), [](unsigned char byte) { return byte != 0; });
}

// The whole kernel of one element type, tiling and reduction.
template <class Element, HeadTile kTile, class Task>
struct HeadKernel {
  using Shape = ShapeOf<kTile>;
  using Schedule = std::conditional_t<Shape::kGroups == 2, Cooperative, Pingpong>;
  using Operand = CutlassElement<Element>;
  using Tile = cute::Shape<cute::Int<Shape::kTileRows>, cute::Int<Shape::kColumns>, cute::_64>;
  using Cluster = cute::Shape<cute::_2, cute::_1, cute::_1>;
  using Stride = cute::Stride<int64_t, cute::_1, int64_t>;
  using Product = cute::TiledMMA<cute::MMA_Atom<typename InstructionOf<Operand, Shape::kColumns>::Type>,
                                 cute::Layout<cute::Shape<cute::Int<Shape::kGroups>, cute::_1, cute::_1>>>;
  using SharedLayout = cute::GMMA::Layout_K_SW128_Atom<Operand>;
  using Mainloop = cutlass::gemm::collective::CollectiveMma<
      cutlass::gemm::MainloopSm90TmaGmmaWarpSpecialized<kStages<Shape>, Cluster, Schedule>, Tile, Operand, Stride,
      Operand, Stride, Product,                                          //
      cute::SM90_TMA_LOAD, SharedLayout, void, cute::identity,           // features
      cute::SM90_TMA_LOAD_MULTICAST, SharedLayout, void, cute::identity  // weight
      >;
  using Epilogue = std::conditional_t<
      kHasAside<Shape, Task>, EpilogueAside<Shape, Element, Task>,
      cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<Reduction<Shape, Element, Task>>>;
  // In ping-pong the other warpgroup's product hides how long CUTLASS's scheduler takes.
  using Scheduler = std::conditional_t<Shape::kGroups == 2, InTurns, cutlass::gemm::PersistentScheduler>;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, Epilogue, Scheduler>;

  static cudaError_t preload() {
    return cudaFuncSetAttribute(cutlass::device_kernel<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                Kernel::SharedStorageSize);
  }

  static typename Kernel::Params params_of(const HopperHead& head, const Task& task, int multiprocessors) {
    const int rows = static_cast<int>(head.rows), classes = static_cast<int>(head.classes);
    typename Kernel::Arguments arguments{};
    arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
    arguments.problem_shape = {rows, classes, static_cast<int>(head.width), 1};
    arguments.mainloop = {static_cast<const Operand*>(head.features),
                          {head.features_stride, cute::_1{}, 0},
                          static_cast<const Operand*>(head.weight),
                          {head.weight_stride, cute::_1{}, 0}};
    arguments.epilogue = {task, static_cast<const Element*>(head.bias)};
    // Whole clusters: the grid of an odd number could not be launched.
    arguments.hw_info.sm_count = std::max(2, multiprocessors / 2 * 2);
    arguments.scheduler.max_swizzle_size =
        swizzle_of(quotient_above(rows, Shape::kTileRows), quotient_above(classes, Shape::kColumns));
    return Kernel::to_underlying_arguments(arguments, nullptr);
  }

  static cudaError_t launch(const HopperHead& head, const Task& task, int multiprocessors, cudaStream_t stream,
                            bool early) {
    const typename Kernel::Params params = params_of(head, task, multiprocessors);
    if (!is_described(params.mainloop.tma_load_a) || !is_described(params.mainloop.tma_load_b))
      return cudaErrorInvalidValue;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {cute::size<0>(Cluster{}), cute::size<1>(Cluster{}), cute::size<2>(Cluster{})};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = Kernel::get_grid_shape(params);
    config.blockDim = Kernel::get_block_shape();
    config.dynamicSmemBytes = Kernel::SharedStorageSize;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = early ? 2 : 1;
    return cudaLaunchKernelEx(&config, cutlass::device_kernel<Kernel>, params);
  }
};

template <class Element, class Task>
cudaError_t HeadKernels<Element, Task>::launch(const HopperHead& head, const Task& task, int multiprocessors,
                                               cudaStream_t stream, bool early) {
  return for_tile(head.tile, [&](auto tile) {
    return HeadKernel<Element, decltype(tile)::value, Task>::launch(head, task, multiprocessors, stream, early);
  });
}

template <class Element, class Task>
cudaError_t HeadKernels<Element, Task>::preload() {
  cudaError_t first = cudaSuccess;
  for (int number = 0; number < kHeadTiles; ++number) {
    const cudaError_t error = for_tile(static_cast<HeadTile>(number), [](auto tile) {
      return HeadKernel<Element, decltype(tile)::value, Task>::preload();
    });
    if (first == cudaSuccess) first = error;
  }
  return first;
}

#ifdef __CUDACC__  // the tests ask a compiler of plain C++ of the types alone
template struct HeadKernels<BFloat, GapTask>;
template struct HeadKernels<BFloat, StatesTask>;
template struct HeadKernels<Half, GapTask>;
template struct HeadKernels<Half, StatesTask>;
#endif

}  // namespace dynams
