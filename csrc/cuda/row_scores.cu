// Row scores on the GPU: from a request to the launches of its element type.
#include "row_launch.cuh"

namespace dynams {

extern template struct RowScoresOf<float>;
extern template struct RowScoresOf<double>;
extern template struct RowScoresOf<Half>;
extern template struct RowScoresOf<BFloat>;

namespace {

// Calls `work` with the entry points of the element type.
template <class Work>
auto for_dtype(DType dtype, Work work) {
  switch (dtype) {
    case DType::kFloat64:
      return work(RowScoresOf<double>{}, static_cast<int>(sizeof(double)));
    case DType::kFloat16:
      return work(RowScoresOf<Half>{}, static_cast<int>(sizeof(Half)));
    case DType::kBFloat16:
      return work(RowScoresOf<BFloat>{}, static_cast<int>(sizeof(BFloat)));
    default:
      return work(RowScoresOf<float>{}, static_cast<int>(sizeof(float)));
  }
}

}  // namespace

int64_t row_scores_scratch(DType dtype, int64_t rows, int64_t classes, uint32_t, int multiprocessors) {
  return for_dtype(dtype, [&](auto of, int element_bytes) {
    return of.scratch(rows, parts_of_row(rows, classes, element_bytes, multiprocessors));
  });
}

cudaError_t row_scores(const CudaRowScores& task, int multiprocessors, cudaStream_t stream) {
  return for_dtype(task.dtype, [&](auto of, int element_bytes) {
    const RowPlan plan = plan_rows(task.rows, task.classes, task.row_stride, element_bytes, multiprocessors);
    return of.score(task, plan, stream);
  });
}

cudaError_t preload_row_scores() {
  cudaError_t first = cudaSuccess;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    const cudaError_t error = for_dtype(dtype, [](auto of, int) { return of.preload(); });
    if (first == cudaSuccess) first = error;
  }
  return first;
}

}  // namespace dynams
