// Exact selection of the k smallest of n values in the order of order_key.h.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace dynams {

// Writes the k selected values (of the input's type) and their indices, in index order, or sorted by (value, index).
// `fresh`: the output was allocated for this call. `last`: the value of the last selected, of the values' type, or null
// where it is not known; it spares the search for it, and may be any number without the answer being another.
void smallest_k(const Kernels& kernels, DType dtype, const void* values, int64_t count, int64_t k, bool by_value,
                const void* last, void* out_values, int64_t* out_indices, bool fresh, int threads);

}  // namespace dynams
