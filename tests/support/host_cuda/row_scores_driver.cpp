// A program that runs the GPU's row scores on the host, to be built with a sanitizer: for
// tests/support/row_sanitizers.py.
//
//   row_scores_driver CASES ANSWERS SECONDS
//
// CASES: for each, kFields numbers of 64 bits in the order of `Field`, then the rows' elements one after another, the
// labels and the distances between classes, as far as there are any. ANSWERS: for each, the scores, kind by kind. All
// memory is of the exact size, so that a sanitizer knows its ends. After SECONDS the process is ended.
#include <unistd.h>

#include <fstream>
#include <iostream>
#include <memory>
#include <vector>

#include "row_scores.cpp"

namespace {

enum Field {
  kDType,
  kRows,
  kClasses,
  kRowStride,
  kOffset,  // of the first element beyond a multiple of 16 bytes, in elements
  kKinds,
  kLabels,
  kDistances,
  kPlanned,  // by the next six; else as the shape is
  kTileRows,
  kLanes,
  kSplits,
  kPartClasses,
  kBlocks,
  kTurns,
  kFields
};

// Bytes that are NaN in every type, at a multiple of 16.
class Memory {
 public:
  explicit Memory(size_t size) : bytes_(new char[size]) { std::memset(bytes_.get(), 0xff, size); }
  char* at(size_t byte) { return bytes_.get() + byte; }
  void read(std::ifstream& file, size_t byte, size_t size) { file.read(at(byte), static_cast<std::streamsize>(size)); }

 private:
  std::unique_ptr<char[]> bytes_;
};

void run(const int64_t* fields, std::ifstream& cases, std::ofstream& answers) {
  const auto dtype = static_cast<DType>(fields[kDType]);
  const size_t element = dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
  const size_t score = dtype == DType::kFloat64 ? 8 : 4;
  const size_t rows = fields[kRows], classes = fields[kClasses], stride = fields[kRowStride], offset = fields[kOffset];
  Memory logits(((rows - 1) * stride + classes + offset) * element);
  for (size_t row = 0; row < rows; ++row) logits.read(cases, (row * stride + offset) * element, classes * element);
  Memory labels(fields[kLabels] ? rows * 8 : 1);
  if (fields[kLabels]) labels.read(cases, 0, rows * 8);
  Memory distances(fields[kDistances] ? classes * classes * 4 : 1);
  if (fields[kDistances]) distances.read(cases, 0, classes * classes * 4);
  size_t kinds = 0;
  for (int64_t left = fields[kKinds]; left != 0; left &= left - 1) ++kinds;
  Memory scores(kinds * rows * score);

  CudaRowScores task{};
  task.logits = logits.at(offset * element);
  task.dtype = dtype;
  task.rows = fields[kRows];
  task.classes = fields[kClasses];
  task.row_stride = fields[kRowStride];
  task.labels = fields[kLabels] ? reinterpret_cast<const int64_t*>(labels.at(0)) : nullptr;
  task.class_distances = fields[kDistances] ? reinterpret_cast<const float*>(distances.at(0)) : nullptr;
  task.distances_stride = fields[kDistances] ? fields[kClasses] : 0;
  task.kinds = static_cast<uint32_t>(fields[kKinds]);
  task.scores = scores.at(0);
  task.scores_stride = fields[kRows];
  const RowPlan plan{static_cast<int>(fields[kTileRows]),
                     static_cast<int>(fields[kLanes]),
                     fields[kSplits],
                     fields[kPartClasses],
                     fields[kBlocks],
                     static_cast<int>(fields[kTurns])};
  const char* problem = host_row_scores(&task, 2, fields[kPlanned] ? &plan : nullptr, 0);
  if (problem != nullptr) {
    std::cerr << problem << '\n';
    std::exit(1);
  }
  answers.write(scores.at(0), static_cast<std::streamsize>(kinds * rows * score));
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "row_scores_driver CASES ANSWERS SECONDS\n";
    return 2;
  }
  alarm(static_cast<unsigned>(std::stoul(arguments[3])));
  std::ifstream cases(arguments[1], std::ios::binary);
  std::ofstream answers(arguments[2], std::ios::binary);
  int64_t fields[kFields];
  while (cases.read(reinterpret_cast<char*>(fields), sizeof(fields))) run(fields, cases, answers);
  answers.flush();
  return answers ? 0 : 1;
}
