// One instruction set's entry in the table: compiled once per instruction set, beside the kernels it points to.
#include "kernels.h"

#define DYNAMS_STRING_OF(name) #name
#define DYNAMS_STRING(name) DYNAMS_STRING_OF(name)

namespace dynams::DYNAMS_ISA {

void row_scores(const RowScoresTask& task, int64_t begin, int64_t end);
KeyCounts collect(DType dtype, const void* values, int64_t count, uint64_t low, uint64_t high, void* keys);
KeyCounts count(DType dtype, const void* values, int64_t count, uint64_t low);
void write_selected(DType dtype, const void* values, int64_t count, uint64_t threshold, const WriteTask& task,
                    void* out_values, int64_t* out_indices);
bool count_groups(DType dtype, const void* values, const int64_t* groups, int64_t count, int64_t group_count,
                  const KeyBins& bins, uint32_t* counts, bool shared);
KeyCounts mark_groups(DType dtype, const void* values, const int64_t* groups, int64_t count, const void* bounds,
                      uint64_t* words, uint32_t* places);
void write_marked(DType dtype, const void* values, int64_t count, const uint64_t* words, const WriteTask& task,
                  void* out_values, int64_t* out_indices);

extern const Kernels kKernels;
const Kernels kKernels{
    DYNAMS_STRING(DYNAMS_ISA), row_scores, collect, count, write_selected, count_groups, mark_groups, write_marked};

}  // namespace dynams::DYNAMS_ISA
