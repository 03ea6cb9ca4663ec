// The device that calls go to, and what is known of devices.
//
// This module has a copy of the CUDA runtime of its own (it is linked statically), torch has another. They share what a
// thread's calls work on: the driver's current context, the device's primary one, which cudaSetDevice makes current and
// by which cudaGetDevice answers ("Interactions with the CUDA Driver API" in the runtime's manual). So what torch has
// made current is current here, and what is changed here must be changed back.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>

namespace dynams {

// Makes a device current while it lives, then the one that was.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error_ = cudaGetDevice(&before_);
    if (error_ != cudaSuccess || before_ == device) return;
    error_ = cudaSetDevice(device);
    is_changed_ = error_ == cudaSuccess;
  }
  ~OnDevice() {
    if (is_changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  cudaError_t error() const { return error_; }

 private:
  int before_ = 0;
  bool is_changed_ = false;
  cudaError_t error_;
};

// How many multiprocessors a device has: asked for once, as it never changes.
inline cudaError_t count_multiprocessors(int device, int& count) {
  constexpr int kDevices = 64;
  static std::atomic<int> known[kDevices];
  const bool is_kept = device >= 0 && device < kDevices;
  count = is_kept ? known[device].load(std::memory_order_relaxed) : 0;
  if (count > 0) return cudaSuccess;
  const cudaError_t error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess && is_kept) known[device].store(count, std::memory_order_relaxed);
  return error;
}

}  // namespace dynams
