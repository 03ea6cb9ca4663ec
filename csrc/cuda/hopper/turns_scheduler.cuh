// turns.h as one of CUTLASS's tile schedulers.
#pragma once

#include <cutlass/gemm/kernel/tile_scheduler.hpp>

#include "turns.h"

namespace dynams {

struct InTurns {};  // names it in a kernel's type

template <class Cluster>
class TurnsScheduler : public cutlass::gemm::kernel::detail::PersistentTileSchedulerSm90 {
  using Base = cutlass::gemm::kernel::detail::PersistentTileSchedulerSm90;
  static constexpr uint32_t kRows = cute::size<0>(Cluster{}), kClasses = cute::size<1>(Cluster{});

 public:
  using Base::Params;

  static CUTLASS_HOST_DEVICE Turns turns_of(const Params& params, uint32_t cluster, uint32_t clusters) {
    const uint32_t swizzle = 1u << params.log_swizzle_size_;
    const auto majors = static_cast<uint32_t>(params.divmod_cluster_blk_major_.divisor);
    const uint32_t all = static_cast<uint32_t>(params.blocks_per_problem_) / (kRows * kClasses);
    return Turns::of(swizzle, majors, all / swizzle / majors, cluster, clusters);
  }
  static CUTLASS_HOST_DEVICE WorkTileInfo tile_of(const Params& params, const Turns& turns, int32_t row,
                                                  int32_t class_) {
    const bool along_classes = params.raster_order_ == RasterOrder::AlongN;
    const auto minor = static_cast<int32_t>(turns.minor()), major = static_cast<int32_t>(turns.major);
    return {(along_classes ? minor : major) * static_cast<int32_t>(kRows) + row,
            (along_classes ? major : minor) * static_cast<int32_t>(kClasses) + class_, 0, turns.is_tile()};
  }

  CUTLASS_DEVICE explicit TurnsScheduler(const Params& params) : Base(params) {
#if defined(__CUDA_ARCH__)
    const bool along_classes = params.raster_order_ == RasterOrder::AlongN;
    turns_ = turns_of(params, along_classes ? blockIdx.y / kClasses : blockIdx.x / kRows,
                      gridDim.x * gridDim.y / (kRows * kClasses));
    const dim3 place = cute::block_id_in_cluster();
    row_ = place.x, class_ = place.y;
#endif
  }

  template <class ClusterShape>
  CUTLASS_DEVICE WorkTileInfo initial_work_tile_info(ClusterShape) const {
    return here();
  }
  CUTLASS_DEVICE bool is_last_tile(WorkTileInfo&, uint32_t = 1) const {
    Turns next = turns_;
    next.advance();
    return !next.is_tile();
  }
  CUTLASS_DEVICE auto fetch_next_work(WorkTileInfo) {
    turns_.advance();
    return cute::make_tuple(here(), true);
  }
  template <class Pipeline_, class State>
  CUTLASS_DEVICE auto fetch_next_work(WorkTileInfo tile, Pipeline_&, State) {
    return fetch_next_work(tile);
  }

 private:
  CUTLASS_DEVICE WorkTileInfo here() const { return tile_of(scheduler_params, turns_, row_, class_); }

  Turns turns_;
  int32_t row_ = 0, class_ = 0;
};

}  // namespace dynams

namespace cutlass::gemm::kernel::detail {

template <class Arch, class Tile, class Cluster, uint32_t kStages>
struct TileSchedulerSelector<dynams::InTurns, Arch, Tile, Cluster, kStages> {
  using Scheduler = dynams::TurnsScheduler<Cluster>;
};

}  // namespace cutlass::gemm::kernel::detail
