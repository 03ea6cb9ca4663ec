// Runs the selection kernel's block algorithm on threads, for the cases of a file.
//
//   selection_driver CASES ANSWERS SECONDS
//
// CASES: for each, kFields numbers of 64 bits in the order of `Field`, then the values' bits. ANSWERS: for each, the
// values selected, their indices and the mask, as far as asked for, then two numbers: the events noted, one bit each,
// and whether every place of the answer was written once. All that a kernel may not rely on is filled with other
// garbage in every run. After SECONDS the process is ended, as threads may wait for each other forever.
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <vector>

#include "kinds.h"
#include "smallest_k_block.h"
#include "smallest_k_task.h"
#include "thread_machine.h"

namespace {

using dynams::BlockSelection;
using dynams::SelectionShape;
using dynams::SelectionShared;
using dynams::SelectionTask;
using executor::Output;
using executor::ThreadMachine;

enum Field {
  kDType,
  kCached,
  kBlocks,
  kSlice,
  kSampled,
  kSampleLow,
  kSampleHigh,
  kPlaceCapacity,
  kListCapacity,
  kCount,
  kK,
  kWantsValues,
  kWantsMask,
  kGarbage,
  kLead,
  kFields
};

// 64 bins, two a thread; chunks of 32 values, two a warp in tiles of 256; 96 keys in a sample; bins of up to 6 members
// are ranked.
template <class Order, bool kCached>
using Shape =
    SelectionShape<Order, std::conditional_t<kCached, uint32_t, unsigned long long>, kCached, 32, 8, 6, 2, 4, 6>;

// Memory of exactly so many elements behind a lead, filled with garbage, so that a sanitizer knows its ends.
template <class T>
class Garbage {
 public:
  Garbage(size_t count, std::mt19937_64& random, size_t lead = 0)
      : bytes_(new unsigned char[(lead + count) * sizeof(T)]), lead_(lead) {
    for (size_t i = 0; i < (lead + count) * sizeof(T); ++i) bytes_[i] = static_cast<unsigned char>(random());
  }
  T* get() { return reinterpret_cast<T*>(bytes_.get()) + lead_; }

 private:
  std::unique_ptr<unsigned char[]> bytes_;
  size_t lead_;
};

template <class T>
void append(std::ofstream& file, const T* values, size_t count) {
  file.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(count * sizeof(T)));
}

template <class Shape>
void run(const int64_t* fields, std::ifstream& cases, std::ofstream& answers) {
  using Raw = typename Shape::Raw;
  using Shared = SelectionShared<ThreadMachine, Shape>;
  const size_t count = fields[kCount], k = fields[kK];
  std::mt19937_64 random(fields[kGarbage]);
  const size_t lead = fields[kLead];
  Garbage<Raw> values(count, random, lead);
  cases.read(reinterpret_cast<char*>(values.get()), static_cast<std::streamsize>(count * sizeof(Raw)));

  Garbage<Raw> out_values(k, random, lead);
  Garbage<int64_t> out_indices(k, random, lead / 2);
  Garbage<bool> out_mask(count, random, lead);
  const size_t wanted = fields[kWantsValues] ? k : 0, masked = fields[kWantsMask] ? count : 0;

  SelectionTask<Shape> task{};
  task.values = values.get();
  task.count = fields[kCount];
  task.k = fields[kK];
  task.out_values = fields[kWantsValues] ? out_values.get() : nullptr;
  task.out_indices = fields[kWantsValues] ? out_indices.get() : nullptr;
  task.out_mask = fields[kWantsMask] ? out_mask.get() : nullptr;
  task.slice = static_cast<uint32_t>(fields[kSlice]);
  dynams::set_sample(task, 3);
  if (fields[kSampled] != 1) task.sampled = false;
  if (fields[kSampleHigh] != 0) {
    task.sample_low = static_cast<int32_t>(fields[kSampleLow]);
    task.sample_high = static_cast<int32_t>(fields[kSampleHigh]);
  }
  task.place_capacity = static_cast<uint32_t>(fields[kPlaceCapacity]);
  task.list_capacity = static_cast<uint32_t>(fields[kListCapacity]);
  const uint32_t blocks = static_cast<uint32_t>(fields[kBlocks]);
  Garbage<unsigned char> scratch(dynams::lay_out(task, blocks, nullptr), random);
  dynams::lay_out(task, blocks, scratch.get());

  std::vector<Garbage<Shared>> shared;
  std::vector<Garbage<unsigned char>> more;
  for (uint32_t block = 0; block < blocks; ++block) {
    shared.emplace_back(1, random);
    more.emplace_back(dynams::shared_bytes(task), random);
  }
  std::vector<Output> outputs;
  outputs.reserve(3);
  outputs.emplace_back(task.out_values, wanted, sizeof(Raw));
  outputs.emplace_back(task.out_indices, wanted, sizeof(int64_t));
  outputs.emplace_back(task.out_mask, masked, sizeof(bool));
  const uint64_t events =
      executor::run_grid(blocks, Shape::kThreads, outputs, [&](ThreadMachine& machine, uint32_t block) {
        BlockSelection<ThreadMachine, Shape>(machine, task, *shared[block].get(), more[block].get()).run();
      });
  uint64_t once = 1;
  for (const Output& output : outputs) once &= output.each_once();
  append(answers, out_values.get(), wanted);
  append(answers, out_indices.get(), wanted);
  append(answers, reinterpret_cast<const unsigned char*>(out_mask.get()), masked);
  append(answers, &events, 1);
  append(answers, &once, 1);
}

template <class Order>
void run_either(const int64_t* fields, std::ifstream& cases, std::ofstream& answers) {
  if (fields[kCached]) run<Shape<Order, true>>(fields, cases, answers);
  else run<Shape<Order, false>>(fields, cases, answers);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "selection_driver CASES ANSWERS SECONDS\n";
    return 2;
  }
  alarm(static_cast<unsigned>(std::stoul(arguments[3])));
  std::ifstream cases(arguments[1], std::ios::binary);
  std::ofstream answers(arguments[2], std::ios::binary);
  int64_t fields[kFields];
  while (cases.read(reinterpret_cast<char*>(fields), sizeof(fields))) {
    switch (static_cast<dynams::DType>(fields[kDType])) {
#ifndef DYNAMS_EXECUTOR_FLOAT32_ONLY  // a sanitizer takes long to compile the same for each type
      case dynams::DType::kFloat64:
        run_either<dynams::Float64Order>(fields, cases, answers);
        break;
      case dynams::DType::kFloat16:
        run_either<dynams::Float16Order>(fields, cases, answers);
        break;
      case dynams::DType::kBFloat16:
        run_either<dynams::BFloat16Order>(fields, cases, answers);
        break;
#endif
      case dynams::DType::kFloat32:
        run_either<dynams::Float32Order>(fields, cases, answers);
        break;
      default:
        std::cerr << "no such dtype\n";
        return 2;
    }
  }
  answers.flush();
  return answers ? 0 : 1;
}
