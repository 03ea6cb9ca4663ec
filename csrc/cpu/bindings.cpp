// The Python module: raw pointers, sizes and a thread count in; no torch. Callers (dynams_kernels/_backends) have
// checked shapes, strides and dtypes; what can still be wrong here is refused.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "../common/integer_call.h"
#include "digits.h"
#include "grouped.h"
#include "handout.h"
#include "kernels.h"
#include "merge_states.h"
#include "parallel.h"
#include "python_team.h"
#include "smallest_k.h"

namespace py = pybind11;

namespace dynams {
namespace {

// A thread's rows must be worth calling it: a few microseconds, at about ten gigabytes a second.
constexpr int64_t kBytesPerThread = 1 << 17;
// A call of less work than that, of so few labels or values, keeps the interpreter: to give it away and wait to get it
// back may take longer.
constexpr int64_t kFewLabels = 1 << 14, kFewValues = 1 << 11;
// A row costs as much as reading this many bytes, however short it is.
constexpr int64_t kLeastRowBytes = 256;

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// The place of an instruction set among the usable ones.
const Kernels& kernels_at(int isa) {
  const Kernels* const* sets = usable_kernels();
  int count = 0;
  while (sets[count] != nullptr) ++count;
  if (isa < 0 || isa >= count) throw py::value_error("isa: got " + std::to_string(isa) + ", want one this CPU has");
  return *sets[isa];
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Kernels* const* set = usable_kernels(); *set != nullptr; ++set) names.emplace_back((*set)->isa);
  return names;
}

DType dtype_numbered(int32_t number) {
  if (number < 0 || number > 3) throw py::value_error("dtype: got " + std::to_string(number) + ", want 0 to 3");
  return static_cast<DType>(number);
}

int64_t element_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

// A label outside [0, classes) but the ignored one, which is outside: the lowest where it is negative, else the
// highest. 0, which is inside, where there is none.
int64_t label_outside(uintptr_t address, int64_t count, int64_t classes, int64_t ignored) {
  const int64_t* labels = pointer<const int64_t>(address);
  std::optional<py::gil_scoped_release> release;
  if (count >= kFewLabels) release.emplace();
  // The sign of one of the two is set exactly where a label is outside: without a branch, several go through at once.
  const uint64_t last = static_cast<uint64_t>(classes - 1);
  uint64_t signs = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t label = labels[i] == ignored ? 0 : static_cast<uint64_t>(labels[i]);
    signs |= label | (last - label);
  }
  if (signs >> 63 == 0) return 0;
  int64_t lowest = 0, highest = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (labels[i] == ignored) continue;
    lowest = std::min(lowest, labels[i]);
    highest = std::max(highest, labels[i]);
  }
  return lowest < 0 ? lowest : highest;
}

// How many rows a thread takes at a time: some 50 microseconds of work, against which taking them is nothing; less
// where there would be too few blocks to even out a team's shares; whole vectors of rows of any instruction set.
int64_t rows_per_block(int64_t rows, int64_t row_bytes, int team) {
  constexpr int64_t kBlockBytes = 1 << 19, kBlocksPerThread = 4, kMostLanes = 16;
  const int64_t block = std::min(kBlockBytes / row_bytes, rows / (team * kBlocksPerThread));
  return std::max<int64_t>(1, block < kMostLanes ? block : block / kMostLanes * kMostLanes);
}

void row_scores(int isa, uintptr_t logits, int32_t dtype, int64_t rows, int64_t classes, int64_t row_stride,
                uintptr_t bias, uintptr_t labels, uintptr_t class_distances, int64_t distances_stride, uint32_t kinds,
                uintptr_t scores, int64_t scores_stride, uintptr_t pairs, uintptr_t states, int64_t class_offset,
                bool is_first, bool is_last, int threads) {
  RowScoresTask task{};
  task.logits = pointer<const void>(logits);
  task.dtype = dtype_numbered(dtype);
  task.rows = rows;
  task.classes = classes;
  task.row_stride = row_stride;
  task.bias = pointer<const void>(bias);
  task.labels = pointer<const int64_t>(labels);
  task.class_distances = pointer<const float>(class_distances);
  task.distances_stride = distances_stride;
  task.kinds = kinds;
  task.scores = pointer<void>(scores);
  task.scores_stride = scores_stride;
  task.pairs = pointer<int64_t>(pairs);
  task.states = pointer<RowState>(states);
  task.class_offset = class_offset;
  task.is_first = is_first;
  task.is_last = is_last;
  if (logits == 0) throw py::value_error("logits: got null");
  if ((kinds & ~kLinearKinds) != 0 || kinds == 0) throw py::value_error("kinds: unknown bits");
  if ((kinds & kLabelledKinds) && labels == 0) throw py::value_error("labels: wanted by kinds, got null");
  if ((kinds & kDistance) && (class_distances == 0 || !is_first || !is_last))
    throw py::value_error("class_distances: wanted by kinds, with whole rows");
  if (!(is_first && is_last) && states == 0)
    throw py::value_error("states: wanted where rows come in blocks, got null");
  const Kernels& kernels = kernels_at(isa);
  const int64_t row_bytes = std::max(kLeastRowBytes, classes * element_bytes(task.dtype));
  const int team = threads_for(rows * row_bytes, kBytesPerThread, threads);
  if (team == 1 && rows * row_bytes < kBytesPerThread) return kernels.row_scores(task, 0, rows);
  const py::gil_scoped_release release;
  if (team == 1) return kernels.row_scores(task, 0, rows);
  const int64_t size = rows_per_block(rows, row_bytes, team);
  Handout handout((rows + size - 1) / size);
  run_team(team, [&](const Member&) {
    for (int64_t block = handout.next(); block >= 0; block = handout.next())
      kernels.row_scores(task, block * size, std::min(rows, (block + 1) * size));
  });
}

// Scores of rows whose classes were read in several runs: see merge_row_states.
void finish_rows(int isa, int32_t dtype, int64_t rows, int64_t classes, uintptr_t labels, uint32_t kinds,
                 uintptr_t scores, int64_t scores_stride, uintptr_t pairs, uintptr_t states, int64_t runs,
                 int64_t run_stride, int64_t run_classes) {
  RowScoresTask task{};
  task.dtype = dtype_numbered(dtype);
  task.rows = rows;
  task.labels = pointer<const int64_t>(labels);
  task.kinds = kinds;
  task.scores = pointer<void>(scores);
  task.scores_stride = scores_stride;
  task.pairs = pointer<int64_t>(pairs);
  task.states = pointer<RowState>(states);
  // A last block of no classes.
  task.class_offset = classes;
  task.is_last = true;
  if (states == 0) throw py::value_error("states: got null");
  if (runs < 1 || run_classes < 1) throw py::value_error("runs: want some, of at least one class each");
  if ((kinds & ~kLinearKinds) != 0 || kinds == 0 || (kinds & kDistance)) throw py::value_error("kinds: unknown bits");
  if ((kinds & kLabelledKinds) && labels == 0) throw py::value_error("labels: wanted by kinds, got null");
  const Kernels& kernels = kernels_at(isa);
  const py::gil_scoped_release release;
  merge_row_states(task.states, rows, runs, run_stride, run_classes, task.labels);
  kernels.row_scores(task, 0, rows);
}

void select_smallest(int isa, uintptr_t values, int32_t dtype, int64_t count, int64_t k, bool by_value, uintptr_t last,
                     uintptr_t out_values, uintptr_t out_indices, bool fresh, int threads) {
  if (k < 0 || k > count)
    throw py::value_error("k: got " + std::to_string(k) + ", want 0 <= k <= " + std::to_string(count));
  const Kernels& kernels = kernels_at(isa);
  const DType type = dtype_numbered(dtype);
  const auto select = [&] {
    smallest_k(kernels, type, pointer<const void>(values), count, k, by_value, pointer<const void>(last),
               pointer<void>(out_values), pointer<int64_t>(out_indices), fresh, threads);
  };
  if (count < kFewValues) return select();
  const py::gil_scoped_release release;
  select();
}

int64_t mark_smallest_grouped(int isa, uintptr_t values, int32_t dtype, uintptr_t groups, int64_t count,
                              int64_t group_count, uintptr_t each, PyObject* fraction, uintptr_t words, int threads) {
  if (count < 0 || count >= kMostGrouped) throw py::value_error("count: got " + std::to_string(count));
  if (group_count < 1) throw py::value_error("group_count: got " + std::to_string(group_count));
  const double share = PyFloat_AsDouble(fraction);
  if (share == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  const Kernels& kernels = kernels_at(isa);
  const DType type = dtype_numbered(dtype);
  const GroupQuotas quotas{group_count, pointer<const int64_t>(each), share};
  std::optional<py::gil_scoped_release> release;
  if (count >= kFewValues || group_count >= kFewValues) release.emplace();
  return mark_smallest(kernels, type, pointer<const void>(values), pointer<const int64_t>(groups), count, quotas,
                       pointer<uint64_t>(words), threads);
}

void write_marked_values(int isa, uintptr_t values, int32_t dtype, int64_t count, uintptr_t words, int64_t marked,
                         bool by_value, uintptr_t out_values, uintptr_t out_indices, int threads) {
  const Kernels& kernels = kernels_at(isa);
  const DType type = dtype_numbered(dtype);
  std::optional<py::gil_scoped_release> release;
  if (count >= kFewValues) release.emplace();
  write_marked(kernels, type, pointer<const void>(values), count, pointer<const uint64_t>(words), marked, by_value,
               pointer<void>(out_values), pointer<int64_t>(out_indices), threads);
}

// The digit of keys in a range as wide as they are, or narrower.
Digit checked_digit(DType dtype, int64_t low, int shift, int bits) {
  const int width = static_cast<int>(8 * element_bytes(dtype));
  if (bits < 1 || bits > kMostDigitBits || shift < 0 || shift + bits > width)
    throw py::value_error("digit: got " + std::to_string(bits) + " bits at " + std::to_string(shift));
  return {low, shift, bits};
}

void count_digits_of(uintptr_t values, int32_t dtype, int64_t count, bool kept, int64_t low, int shift, int bits,
                     uintptr_t counts, int threads) {
  const DType type = dtype_numbered(dtype);
  const Digit digit = checked_digit(type, low, shift, bits);
  const py::gil_scoped_release release;
  const auto count_all = kept ? &count_kept_digits : &count_digits;
  count_all(type, pointer<const void>(values), count, digit, pointer<int64_t>(counts), threads);
}

void keep_digits_of(int isa, uintptr_t values, int32_t dtype, int64_t count, int64_t low, int shift, int bits,
                    uintptr_t keys, int64_t kept, uintptr_t counts, int threads) {
  const Kernels& kernels = kernels_at(isa);
  const DType type = dtype_numbered(dtype);
  if (element_bytes(type) == 2) throw py::value_error("dtype: got one of 16 bits, want float32 or float64");
  const Digit digit = checked_digit(type, low, shift, bits);
  if (shift + bits == 8 * element_bytes(type)) throw py::value_error("digit: got the top one, whose keys are all");
  const py::gil_scoped_release release;
  keep_digits(kernels, type, pointer<const void>(values), count, digit, pointer<void>(keys), kept,
              pointer<int64_t>(counts), threads);
}

}  // namespace
}  // namespace dynams

PYBIND11_MODULE(_cpu, module) {
  using namespace dynams;
  module.doc() = "CPU kernels on raw pointers; see dynams_kernels for the functions to call.";
  // Which stub it was compiled for: Python code with another one does not load it.
  module.attr("INTERFACE") = DYNAMS_INTERFACE;
  module.attr("ROW_STATE_BYTES") = sizeof(RowState);
  module.def("supported_isas", &supported_isas, "Instruction sets this CPU can run, best first.");
  module.def("team_kind", &team_kind, "What a call's threads are: \"openmp\" (torch's own) or \"std::thread\".");
  static PyMethodDef calls[] = {
      integer_call<&label_outside>("label_outside"),      integer_call<&row_scores>("row_scores"),
      integer_call<&finish_rows>("finish_rows"),          integer_call<&call_in_team>("call_in_team"),
      integer_call<&select_smallest>("smallest_k"),       integer_call<&mark_smallest_grouped>("mark_smallest_grouped"),
      integer_call<&write_marked_values>("write_marked"), integer_call<&count_digits_of>("count_digits"),
      integer_call<&keep_digits_of>("keep_digits"),       {}};
  if (PyModule_AddFunctions(module.ptr(), calls) < 0) throw py::error_already_set();
}
