// The few types of the CUDA runtime that launches need, for running kernels on the host.
#pragma once

#include <cstddef>

enum cudaError_t { cudaSuccess = 0, cudaErrorUnknown = 999 };
struct FakeStream;
using cudaStream_t = FakeStream*;
