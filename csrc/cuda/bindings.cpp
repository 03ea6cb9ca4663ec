// The Python module of the CUDA kernels: raw pointers, sizes, a device and a stream in; no torch. Callers
// (dynams_kernels/_backends) have checked shapes, strides and dtypes. The caller's current device stays what it was.
//
// Importing it makes no CUDA call: a process may import it and fork.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../common/integer_call.h"
#include "current_device.h"
#include "hopper/linear_head.h"
#include "row_scores.h"
#include "smallest_k.h"

namespace py = pybind11;

namespace dynams {
namespace {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error));
}

DType dtype_numbered(int32_t number) {
  if (number < 0 || number > 3) throw py::value_error("dtype: got " + std::to_string(number) + ", want 0 to 3");
  return static_cast<DType>(number);
}

int multiprocessors_of(int device) {
  int count = 0;
  check(count_multiprocessors(device, count), "multiprocessor count");
  return count;
}

// Memory for one launch from a tensor's `new_empty`: of torch's allocator, which gives it to nobody else before the
// stream is through with it.
class Scratch {
 public:
  Scratch(PyObject* new_empty, int64_t bytes, DType dtype) {
    if (bytes == 0) return;
    const int64_t size = dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
    tensor_ = py::reinterpret_borrow<py::object>(new_empty)((bytes + size - 1) / size);
    data_ = pointer<void>(tensor_.attr("data_ptr")().cast<uintptr_t>());
  }
  void* data() const { return data_; }

 private:
  py::object tensor_;
  void* data_ = nullptr;
};

std::vector<std::string> architectures() {
  std::istringstream words(DYNAMS_CUDA_ARCHITECTURES);
  std::vector<std::string> names;
  for (std::string word; words >> word;) names.push_back(word);
  return names;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// The error in words, for an answer that is this text: no later call may meet the error.
std::string told(cudaError_t error) {
  cudaGetLastError();
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

// Why the kernels cannot run on this device; empty where they can. Loads them all, so that none is loaded lazily
// inside a graph's capture.
std::string why_unusable(int device) {
  int driver = 0;
  cudaError_t error = cudaDriverGetVersion(&driver);
  if (error != cudaSuccess || driver == 0) return "no CUDA driver";
  // Minor versions are compatible with one another, major ones only backwards.
  if (driver / 1000 < CUDART_VERSION / 1000)
    return "the driver supports CUDA " + version_text(driver) + ", these kernels were built with CUDA " +
           version_text(CUDART_VERSION);
  const OnDevice on_device(device);
  error = on_device.error();
  if (error == cudaSuccess) error = preload_row_scores();
  if (error == cudaSuccess) error = preload_smallest_k();
  return error == cudaSuccess ? "" : told(error);
}

void launch_row_scores(uintptr_t logits, int32_t dtype, int64_t rows, int64_t classes, int64_t row_stride,
                       uintptr_t labels, uintptr_t class_distances, int64_t distances_stride, uint32_t kinds,
                       uintptr_t scores, int64_t scores_stride, PyObject* new_empty, int device, uintptr_t stream) {
  CudaRowScores task{};
  task.logits = pointer<const void>(logits);
  task.dtype = dtype_numbered(dtype);
  task.rows = rows;
  task.classes = classes;
  task.row_stride = row_stride;
  task.labels = pointer<const int64_t>(labels);
  task.class_distances = pointer<const float>(class_distances);
  task.distances_stride = distances_stride;
  task.kinds = kinds;
  task.scores = pointer<void>(scores);
  task.scores_stride = scores_stride;
  if (rows < 1 || classes < 2) throw py::value_error("logits: want at least one row of at least two classes");
  if ((kinds & ~kAllKinds) != 0 || kinds == 0) throw py::value_error("kinds: unknown bits");
  if ((kinds & kLabelledKinds) && labels == 0) throw py::value_error("labels: wanted by kinds, got null");
  if ((kinds & kDistance) && class_distances == 0) throw py::value_error("class_distances: wanted by kinds, got null");
  const OnDevice on_device(device);
  check(on_device.error(), "cudaSetDevice");
  const int multiprocessors = multiprocessors_of(device);
  const Scratch scratch(new_empty, row_scores_scratch(task.dtype, rows, classes, kinds, multiprocessors), task.dtype);
  task.scratch = scratch.data();
  check(row_scores(task, multiprocessors, pointer<CUstream_st>(stream)), "row_scores");
}

#ifdef DYNAMS_HOPPER
constexpr const char* kWithoutHopper = "";

// Why the linear head's kernel cannot run on this device, where the others can; empty where it can. Loads it.
std::string why_no_linear_scores(int device) {
  const OnDevice on_device(device);
  int major = 0, minor = 0;
  cudaError_t error = on_device.error();
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (error == cudaSuccess && (major != 9 || minor != 0))
    return "compute capability " + std::to_string(major) + "." + std::to_string(minor) + ", want 9.0";
  if (error == cudaSuccess) error = preload_hopper_head();
  return error == cudaSuccess ? "" : told(error);
}

// Whether TMA can describe rows of `width` 2-byte elements, `stride` apart: 40-bit strides in bytes, multiples of 16.
// CUTLASS counts in 32 bits, and rounds up.
bool is_describable(uintptr_t matrix, int64_t rows, int64_t stride, int64_t width) {
  constexpr int64_t kAlignment = 16, kElement = 2, kMost = int64_t(1) << 30, kMostStride = int64_t(1) << 38;
  const bool strided = stride >= width && stride <= kMostStride && stride * kElement % kAlignment == 0;
  return matrix != 0 && matrix % kAlignment == 0 && rows >= 1 && rows <= kMost && width >= 1 && width <= kMost &&
         strided;
}

void launch_linear_scores(uintptr_t features, int64_t features_stride, uintptr_t weight, int64_t weight_stride,
                          uintptr_t bias, uintptr_t labels, int32_t dtype, int64_t rows, int64_t classes, int64_t width,
                          uint32_t kinds, uintptr_t scores, int64_t scores_stride, int32_t tile, PyObject* new_empty,
                          int device, uintptr_t stream) {
  HopperHead head{};
  head.features = pointer<const void>(features);
  head.weight = pointer<const void>(weight);
  head.bias = pointer<const void>(bias);
  head.labels = pointer<const int64_t>(labels);
  head.dtype = dtype_numbered(dtype);
  head.rows = rows;
  head.classes = classes;
  head.width = width;
  head.features_stride = features_stride;
  head.weight_stride = weight_stride;
  head.kinds = kinds;
  head.scores = pointer<float>(scores);
  head.scores_stride = scores_stride;
  if (!is_describable(features, rows, features_stride, width)) throw py::value_error("features: no rows for TMA");
  if (!is_describable(weight, classes, weight_stride, width)) throw py::value_error("weight: no rows for TMA");
  if (head.dtype != DType::kFloat16 && head.dtype != DType::kBFloat16)
    throw py::value_error("dtype: got " + std::to_string(dtype) + ", want 2 or 3");
  if (bias % 4 != 0) throw py::value_error("bias: want 4-byte alignment");
  if (classes < 2) throw py::value_error("weight: want at least two classes");
  if ((kinds & ~kHopperKinds) != 0 || kinds == 0) throw py::value_error("kinds: unknown bits");
  if ((kinds & kLabelledKinds) && labels == 0) throw py::value_error("labels: wanted by kinds, got null");
  if (tile < 0 || tile >= kHeadTiles)
    throw py::value_error("tile: got " + std::to_string(tile) + ", want 0 to " + std::to_string(kHeadTiles - 1));
  head.tile = static_cast<HeadTile>(tile);
  const OnDevice on_device(device);
  check(on_device.error(), "cudaSetDevice");
  const Scratch scratch(new_empty, hopper_head_scratch(head), head.dtype);
  head.scratch = scratch.data();
  check(hopper_head(head, multiprocessors_of(device), pointer<CUstream_st>(stream)), "linear_scores");
}
#else
constexpr const char* kWithoutHopper = DYNAMS_WITHOUT_HOPPER;

std::string why_no_linear_scores(int) { return kWithoutHopper; }
#endif

// For tests: zeros leave a matter to the plan, see SelectionForce.
void launch_smallest_k_forced(uintptr_t values, int32_t dtype, int64_t count, int64_t k, uintptr_t out_values,
                              uintptr_t out_indices, uintptr_t out_mask, PyObject* new_empty, int device,
                              uintptr_t stream, int32_t sample_low, int32_t sample_high, uint32_t place_capacity,
                              uint32_t list_capacity) {
  const SelectionForce force{sample_low, sample_high, place_capacity, list_capacity};
  CudaSmallestK task{};
  task.values = pointer<const void>(values);
  task.dtype = dtype_numbered(dtype);
  task.count = count;
  task.k = k;
  task.out_values = pointer<void>(out_values);
  task.out_indices = pointer<int64_t>(out_indices);
  task.out_mask = pointer<bool>(out_mask);
  task.force = &force;
  if (k < 1 || k > count)
    throw py::value_error("k: got " + std::to_string(k) + ", want 1 <= k <= " + std::to_string(count));
  const OnDevice on_device(device);
  check(on_device.error(), "cudaSetDevice");
  const int multiprocessors = multiprocessors_of(device);
  const Scratch scratch(new_empty, smallest_k_scratch(task.dtype, count, multiprocessors), task.dtype);
  task.scratch = scratch.data();
  check(smallest_k(task, multiprocessors, pointer<CUstream_st>(stream)), "smallest_k");
}

void launch_smallest_k(uintptr_t values, int32_t dtype, int64_t count, int64_t k, uintptr_t out_values,
                       uintptr_t out_indices, uintptr_t out_mask, PyObject* new_empty, int device, uintptr_t stream) {
  launch_smallest_k_forced(values, dtype, count, k, out_values, out_indices, out_mask, new_empty, device, stream, 0, 0,
                           0, 0);
}

}  // namespace
}  // namespace dynams

PYBIND11_MODULE(_cuda, module) {
  using namespace dynams;
  module.doc() = "CUDA kernels on raw pointers; see dynams_kernels for the functions to call.";
  // Which stub it was compiled for: Python code with another one does not load it.
  module.attr("INTERFACE") = DYNAMS_INTERFACE;
  module.attr("ARCHITECTURES") = architectures();
  module.attr("CUDA_VERSION") = version_text(CUDART_VERSION);
  module.attr("HOPPER") = kWithoutHopper;
  module.def("why_unusable", &why_unusable,
             "Why the kernels cannot run on a device (empty where they can); loads them.");
  module.def("why_no_linear_scores", &why_no_linear_scores,
             "Why the linear head's kernel cannot run on a device (empty where it can); loads it.");
  static PyMethodDef calls[] = {
      integer_call<&launch_row_scores>("row_scores"),
#ifdef DYNAMS_HOPPER
      integer_call<&launch_linear_scores>("linear_scores"),
#endif
      integer_call<&launch_smallest_k>("smallest_k"),
      integer_call<&launch_smallest_k_forced>("smallest_k_forced"),
      {},
  };
  if (PyModule_AddFunctions(module.ptr(), calls) < 0) throw py::error_already_set();
}
